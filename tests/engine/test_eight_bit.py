"""The weights int8, w4a8 and fp8: what is in 8 bits, what memory it takes, how near it stays, where it is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from peak import PeakBytes
from slant import Engine
from slant.artifact.recipe import Grid, Recipe
from slant.demo import FOLDER, passages
from slant.errors import SlantError
from slant.model.qwen3_5.blocks import Attention
from slant.options import LoadOptions
from slant.quantize.job import quantize_checkpoint
from slant.runtime import resolved
from slant.runtime.classifier import Classifier
from slant.runtime.load import load_runner
from slant.runtime.memory import tiers
from slant.runtime.resolved import choose_dtype
from slant_kernels.fp8 import Fp8Matrix
from slant_kernels.int8 import Int8Matrix
from slant_kernels.merged import PanelStack
from slant_kernels.w4a8 import W4A8Matrix, W4A8Panels

CPU = torch.device("cpu")
KINDS = {"int8": Int8Matrix, "w4a8": (W4A8Panels, W4A8Matrix), "fp8": Fp8Matrix}
ways = pytest.mark.parametrize(("weights", "kind"), KINDS.items(), ids=KINDS)
TEXTS = [passage["text"] for passage in passages()]


@ways
def test_all_matrices_but_those_of_the_gates_are_in_8_bits(weights, kind):
    for block in Engine.load(FOLDER, weights=weights, device="cpu").runner.model.blocks:
        inputs = block.mixer.in_kvq if isinstance(block.mixer, Attention) else (block.mixer.in_qkvz,)
        assert all(isinstance(matrix, kind) for matrix in (*inputs, block.mixer.out, block.gate_up, block.down))
        assert isinstance(block.mixer, Attention) or not isinstance(block.mixer.in_ab, kind)


@ways
def test_the_weights_are_as_large_as_predicted(weights, kind):
    made = Classifier.open(FOLDER, LoadOptions(weights=weights, max_tokens=512, device="cpu"))
    (tier,) = tiers(made.memory_request())
    with PeakBytes() as peak:
        runner = load_runner(made, tier, positions=512)
        held = peak.live
    plain = max(rows * columns for rows, columns in made.source.config.merged_shapes()) * 4 * (weights == "fp8")
    assert 0.95 * held <= tier.weights - plain + tier.prefix <= 1.05 * held
    assert runner.model.dtype == made.options.dtype


@pytest.mark.parametrize("weights", ["fp8", "w4a8"])
def test_what_fp8_and_w4a8_take_on_a_cpu_is_predicted(weights):
    """Too much rather than too little."""
    made = Classifier.open(FOLDER, LoadOptions(weights=weights, max_tokens=512, token_budget=1024, device="cpu"))
    (tier,) = tiers(made.memory_request())
    texts = [np.full(128, 7, dtype=np.int32)] * 8 + [np.full(512, 7, dtype=np.int32)]
    for text in texts:
        text[: len(made.prompt.prefix_ids)] = made.prompt.prefix_ids
    with PeakBytes() as peak:
        runner = load_runner(made, tier, positions=512)
        assert list(runner.run(texts))
    assert peak.bytes <= tier.peak <= 1.4 * peak.bytes


@ways
def test_probabilities_stay_near_and_are_not_the_same(weights, kind):
    eight, full = (Engine.load(FOLDER, weights=name, device="cpu").score(TEXTS) for name in (weights, "fp32"))
    change = np.abs(eight.probabilities - full.probabilities).max(axis=1)
    # A code of fp8 is a third as precise, and weights of 4 bits are the larger part of w4a8.
    assert 1e-4 < change.max() < {"int8": 0.05, "w4a8": 0.15, "fp8": 0.15}[weights]
    assert (eight.label != full.label).sum() <= 2


@ways
def test_read_from_disk_block_by_block_it_gives_the_same_bits(weights, kind):
    options = LoadOptions(weights=weights, device="cpu")
    resident, offloaded = Engine.load(FOLDER, options), Engine.offloaded(FOLDER, options)
    assert np.array_equal(resident.score(TEXTS[:9]).logits, offloaded.score(TEXTS[:9]).logits)


def test_every_tier_of_fp8_gives_the_same_bits():
    """Offloaded it was quantized on the host, and travels in 8 bits."""
    made, found = Classifier.open(FOLDER, LoadOptions(weights="fp8", max_tokens=512, device="cpu")), {}
    for tier in tiers(replace(made.memory_request(), device_type="cuda")):
        runner = load_runner(made, tier, positions=512)
        found[tier.name] = Engine(made.prompt, runner, made.options).score(TEXTS[:9]).logits
        if tier.offload:
            slots, waiting = sum(slot.nbytes for slot in runner.blocks._slots), tier.token_budget * 128
            assert slots == pytest.approx(tier.weights - waiting * made.options.dtype.itemsize, rel=0.02)
    assert list(found) == ["resident", "offload"]
    assert np.array_equal(found["resident"], found["offload"])


def test_an_artifact_is_multiplied_in_fp8_whatever_it_was_quantized_to(tmp_path):
    small = quantize_checkpoint(FOLDER, tmp_path / "small", tiny.recipe("hqq4"))
    engine = Engine.load(small, weights="fp8", device="cpu", memory="1GB")
    assert engine.options.arithmetic().weights == "fp8"
    assert isinstance(engine.runner.model.blocks[0].gate_up, Fp8Matrix)
    made = Classifier.open(small, LoadOptions(weights="fp8", device="cpu"))
    *_, offload = tiers(replace(made.memory_request(), device_type="cuda"))
    with load_runner(made, offload, positions=512).blocks.use(0) as block:
        assert isinstance(block.gate_up, Fp8Matrix)


def test_an_mlp_of_many_tokens_is_computed_in_parts(monkeypatch):
    whole = Engine.load(FOLDER, weights="fp8", device="cpu").score(TEXTS[:3]).logits
    monkeypatch.setattr("slant.model.qwen3_5.blocks.MLP_TOKENS", 32)
    parts = Engine.load(FOLDER, weights="fp8", device="cpu").score(TEXTS[:3]).logits
    assert np.abs(parts - whole).max() < 0.1


def test_w4a8_adds_little_to_the_drift_of_its_codes():
    w4a8, hqq4, full = (
        Engine.load(FOLDER, weights=name, device="cpu").score(TEXTS).probabilities for name in ("w4a8", "hqq4", "fp32")
    )
    own = np.abs(w4a8 - hqq4)
    assert 1e-4 < own.max() < 0.3 * np.abs(hqq4 - full).max()
    assert own.mean() < 0.2 * np.abs(hqq4 - full).mean()


@pytest.mark.parametrize("bits", [8, 2])
def test_w4a8_has_an_artifacts_own_codes(tmp_path, bits):
    recipe = tiny.recipe(bits, 32)
    small = quantize_checkpoint(FOLDER, tmp_path / "small", recipe)
    engine = Engine.load(small, weights="w4a8", device="cpu")
    assert engine.options.arithmetic().weights == "w4a8"
    own = engine.runner.model.blocks[0].gate_up
    assert isinstance(own, KINDS["w4a8"])
    matrix = own.matrix if isinstance(own, W4A8Matrix) else own
    assert (matrix.bits, matrix.group_size) == (bits, 32)
    change = np.abs(engine.score(TEXTS).probabilities - Engine.load(small, device="cpu").score(TEXTS).probabilities)
    assert 1e-5 < change.max() < 0.05


def test_w4a8_of_parts_that_are_quantized_otherwise_or_not(tmp_path):
    """A merged matrix of which one part has other bits, and one is left as it is."""
    rules = dict(tiny.recipe("hqq4").rules)
    rules["linear_attn.in_proj_z.weight"], rules["mlp.up_proj.weight"] = Grid(2, 64), None
    small = quantize_checkpoint(FOLDER, tmp_path / "small", Recipe(rules))
    engine = Engine.load(small, weights="w4a8", device="cpu")
    assert isinstance(engine.runner.model.blocks[0].gate_up, PanelStack)
    change = np.abs(engine.score(TEXTS).probabilities - Engine.load(small, device="cpu").score(TEXTS).probabilities)
    assert 1e-5 < change.max() < 0.05


def test_who_cannot_multiply_is_refused(monkeypatch):
    for name in ("int8", "w4a8"):
        with pytest.raises(SlantError, match=f"the weights {name} are for CPUs, and this is cuda; use fp8"):
            choose_dtype(name, torch.device("cuda"))
    for name in ("sm_89", "sm_90", "sm_86", "gfx942"):
        monkeypatch.setattr(resolved, "target", lambda device, name=name: name)
        if name in ("sm_89", "sm_90"):
            assert choose_dtype("fp8", torch.device("cuda")) == torch.bfloat16
            continue
        with pytest.raises(SlantError, match=f"need a GPU of sm_89 or newer, and this is {name}; use hqq8 or auto."):
            choose_dtype("fp8", torch.device("cuda"))
