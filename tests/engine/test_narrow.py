"""Weights in bf16 for activations in fp32, on a processor that does not multiply bf16; and products in panels."""

import numpy as np
import pytest
import torch

from slant import Engine
from slant.artifact.recipe import Grid, Recipe
from slant.demo import FOLDER, passages
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant.options import LoadOptions
from slant.runtime.classifier import Classifier, is_bf16
from slant.runtime.resolved import resolve_options
from slant_kernels import native
from slant_kernels.merged import PanelStack
from slant_kernels.panels import PanelMatrix

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
TEXTS = [passage["text"] for passage in passages()][:6]
needs_library = pytest.mark.skipif(not native.level(), reason="nothing is compiled, or SLANT_NATIVE is 0")


@pytest.fixture
def without_bf16(monkeypatch):
    """The processor multiplies no bf16."""
    monkeypatch.setattr("slant.runtime.resolved.multiplies_bf16", lambda: False)


def resolved(weights, **known):
    options = LoadOptions(weights=weights, device="cpu")
    return resolve_options(options, max_positions=512, **{"is_artifact": False, "is_bf16": True} | known)


@pytest.mark.parametrize(
    ("weights", "known", "expected"),
    [
        ("auto", {}, ("bf16", True)),
        ("auto", {"is_bf16": False}, ("fp32", False)),
        ("bf16", {}, ("bf16", True)),
        ("bf16", {"is_bf16": False}, ("bf16", True)),
        ("fp32", {}, ("fp32", False)),
        ("hqq4", {}, ("hqq4", True)),
        ("hqq4", {"is_bf16": False}, ("hqq4", False)),
        ("int8", {}, ("int8", True)),
        ("auto", {"is_artifact": True}, ("artifact", True)),
        ("bf16", {"is_artifact": True, "is_bf16": False}, ("artifact", False)),
    ],
)
def test_what_stays_in_bf16(weights, known, expected, without_bf16):
    found = resolved(weights, **known)
    assert (found.weights, found.narrow) == expected
    assert found.dtype == torch.float32
    assert found.storage == (torch.bfloat16 if expected[1] else torch.float32)
    assert found.arithmetic().dtype == "fp32"


def test_where_bf16_is_multiplied_nothing_is_narrow(monkeypatch):
    monkeypatch.setattr("slant.runtime.resolved.multiplies_bf16", lambda: True)
    for weights in ("auto", "bf16", "fp32", "hqq4"):
        assert not resolved(weights).narrow
    assert resolved("bf16").dtype == torch.bfloat16


def test_a_certificate_tells_fp32_activations_from_bf16(monkeypatch):
    found = []
    for native_bf16 in (True, False):
        monkeypatch.setattr("slant.runtime.resolved.multiplies_bf16", lambda answer=native_bf16: answer)
        found.append(resolved("bf16").arithmetic())
    assert found[0].differences(found[1]) == "dtype=fp32 instead of bf16"


def test_which_files_are_bf16(tiny_checkpoint, monkeypatch):
    assert is_bf16(Checkpoint.open(FOLDER)), "norms and convolutions may be anything"
    assert not is_bf16(Checkpoint.open(tiny_checkpoint("grouped"))), "fp32"
    quantized = QuantizedCheckpoint(Checkpoint.open(FOLDER), Recipe({"mlp.gate_proj.weight": Grid(4, 32)}), CPU)
    assert is_bf16(quantized)
    merged = Classifier.open(FOLDER, LoadOptions(device="cpu")).source
    monkeypatch.setattr(merged, "as_stored", lambda name: None)
    assert not is_bf16(merged), "an adapter adds to what the files have"


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_library), False])
def test_scores_are_those_of_fp32(compiled, without_bf16, monkeypatch):
    """A checkpoint in bf16 loses nothing: only the order of sums differs."""
    if not compiled:
        monkeypatch.setattr(native, "levels", lambda: ())
    narrow, plain = (Engine.load(FOLDER, weights=weights, device="cpu") for weights in ("auto", "fp32"))
    assert (narrow.options.weights, narrow.options.dtype) == ("bf16", torch.float32)
    model = narrow.runner.model
    assert model.embedding.dtype == torch.bfloat16
    assert isinstance(model.blocks[0].gate_up, PanelMatrix if compiled else torch.Tensor)
    assert model.blocks[0].gate_up.nbytes == 2 * 2 * model.blocks[0].inner_width * model.config.hidden_size
    found, expected = narrow.score(TEXTS).logits, plain.score(TEXTS).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_panels_against_dense(dtype):
    """Recipes that differ among the projections of one input, and leave some of them dense."""
    recipe = Recipe(
        {
            "linear_attn.in_proj_qkv.weight": Grid(4, 32),
            "linear_attn.in_proj_z.weight": Grid(2, 64),
            "linear_attn.out_proj.weight": Grid(8, 64),
            "self_attn.k_proj.weight": Grid(8, 64),
            "self_attn.o_proj.weight": Grid(8, 128),
            "mlp.gate_proj.weight": Grid(3, 32),
            "layers.0.mlp.down_proj.weight": Grid(3, 128),
        }
    )
    source = QuantizedCheckpoint(Checkpoint.open(FOLDER), recipe, CPU)
    dense = Model(Weights(source, dtype, CPU), 128)
    ours = Model(Weights(source, dtype, CPU, panels=True), 128)
    assert isinstance(ours.blocks[0].gate_up, PanelStack)
    assert isinstance(ours.blocks[0].down, PanelMatrix)
    assert isinstance(ours.blocks[1].down, torch.Tensor)
    ids, lengths = torch.randint(0, 200, (3, 70)), torch.tensor([70, 1, 33])
    found, expected = ours(ids, lengths), dense(ids, lengths)
    truth = Model(Weights(source, torch.float32, CPU), 128)(ids, lengths)
    bound = 1e-4 * truth.abs().max() if dtype == torch.float32 else 2 * (expected.float() - truth).abs().max()
    assert (found.float() - truth).abs().max() <= bound
