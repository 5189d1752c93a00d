"""Predicted memory against what is really held."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import child
import precision
import published
import tiny
from peak import PeakBytes
from slant.demo import FOLDER
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.registry import activation_bytes, read_config
from slant.model.weights import Weights
from slant_kernels.onednn import can_reorder

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(shape, kind, dtype):
        key = shape, kind, dtype
        if key not in made:
            changes = published.NARROW | {"vocab_size": 64, "num_hidden_layers": 2, "layer_types": [kind, kind]}
            changes |= {"intermediate_size": 4608} if shape == "wide" else {}
            folder = published.write_small(tmp_path_factory.mktemp("model"), **changes)
            weights = Weights(Checkpoint.open(folder), dtype, CPU, reordered=can_reorder(dtype, CPU))
            made[key] = Model(weights, 2048)
        return made[key]

    return model


@pytest.mark.parametrize("dtype", precision.DTYPES)
@pytest.mark.parametrize("kind", ["linear_attention", "full_attention"])
@pytest.mark.parametrize(("rows", "length"), [(1, 64), (16, 64), (8, 128), (1, 1024), (2, 1024)])
def test_activations_are_predicted(models, dtype, kind, rows, length):
    check_activations(models("0.8b", kind, dtype), rows, length)


def check_activations(model, rows, length):
    ids, lengths = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows,), length)
    with torch.inference_mode(), PeakBytes() as peak:
        model(ids, lengths)
    predicted = activation_bytes(model.config, model.dtype.itemsize, rows, length)
    assert 0.9 * peak.bytes <= predicted <= 1.25 * peak.bytes


@pytest.mark.parametrize(("rows", "length"), [(8, 128), (1, 1024)])
def test_activations_of_a_wide_mlp_are_predicted(models, rows, length):
    check_activations(models("wide", "full_attention", precision.DTYPE), rows, length)


GPU = """
import json, sys
import torch
from peak import PeakBytes
from published import large
from slant.model.network import Model
from slant.model.registry import activation_bytes
from slant.model.outline import META, Outline
from slant.model.weights import Weights
from slant_kernels.cross import compiling, rehearsing

def case(kind, inner, rows, length):
    # Three blocks, because the first has no residual yet and the last works for one position.
    config = large(num_hidden_layers=3, layer_types=3 * [kind], intermediate_size=inner)
    model = Model(Weights(Outline(config), torch.bfloat16, META), length)
    ids = torch.empty(rows, length, dtype=torch.int64, device=META)
    with PeakBytes() as peak:
        model(ids, torch.empty(rows, dtype=torch.int64, device=META))
    return peak.bytes, activation_bytes(config, 2, rows, length, "cuda")

with compiling("sm_90"), rehearsing(), torch.inference_mode():
    print(json.dumps([case(*arguments) for arguments in json.loads(sys.argv[1])]))
"""


def test_activations_on_a_gpu_are_predicted():
    """What the Triton path allocates, on meta tensors. The small MLP lets the mixer be the largest part."""
    pytest.importorskip("triton")
    batches = ((1, 8192), (128, 128), (16, 1024), (1, 128), (3, 100))
    kinds = ("linear_attention", "full_attention")
    cases = [(kind, inner, *batch) for kind in kinds for inner in (512, 9216) for batch in batches]
    found = json.loads(child.python("-c", GPU, json.dumps(cases)).stdout)
    for case, (held, predicted) in zip(cases, found, strict=True):
        assert predicted == pytest.approx(held, rel=0.01), case


def test_weights_and_prefix_are_predicted_exactly():
    model = Model(Weights(Checkpoint.open(FOLDER), torch.bfloat16, torch.device("cpu")), 64)
    head_and_norm = 4 * model.config.hidden_size * (5 + 1)
    owned = {}

    def collect(thing):
        if isinstance(thing, torch.Tensor):
            owned[thing.data_ptr()] = thing.nbytes
        elif isinstance(thing, (list, tuple)):
            for part in thing:
                collect(part)
        elif hasattr(thing, "__dict__") and not dataclasses.is_dataclass(thing):
            for name, part in vars(thing).items():
                if name not in ("start", "rotary"):
                    collect(part)

    collect([model.embedding, model.blocks])
    assert sum(owned.values()) + head_and_norm == tiny.weight_bytes(model.config, 2, answers=5)
    with torch.inference_mode():
        states = model.prefix(torch.arange(30)).states
    held = sum(part.nbytes for state in states for part in state)
    assert held == model.config.prefix_bytes(2, tokens=30)


LOAD = """
import sys, torch
from peak import resident_bytes
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.weights import Weights

checkpoint = Checkpoint.open(sys.argv[1])
before = resident_bytes()
model = Model(Weights(checkpoint, torch.bfloat16, torch.device("cpu")), 64)
print(resident_bytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_loading_holds_the_result_and_at_most_one_layer(tmp_path):
    folder = published.write_small(tmp_path, vocab_size=64, num_hidden_layers=5)
    config = read_config(folder)
    result = tiny.weight_bytes(config, 2, answers=0)
    layer = result / config.num_hidden_layers
    assert result * 0.95 <= int(child.python("-c", LOAD, folder).stdout) <= result + layer
