"""The whole model on the Triton path, in the interpreter without a GPU, against the torch path.

The interpreter takes a tenth of a second for a chunk of a DeltaNet head, so all but one run of each kind are ``slow``.
"""

import pytest
import torch

import tiny
from capture import capture_on
from slant.artifact.recipe import Grid, Recipe
from slant.batching.batches import pad
from slant.batching.buckets import STEP
from slant.batching.plan import Planner
from slant.model.checkpoint import Checkpoint
from slant.model.hqq import QuantizedCheckpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime.runner import Runner
from slant_kernels.merged import Scratch

LENGTHS = (1, 66)  # two chunks of the delta rule, padded to 70
PREFIX = torch.arange(5, 12)
HQQ4 = tiny.recipe("hqq4")
MIXED = Recipe(  # the parts of fused matrices on grids of their own, and one that is not quantized
    {
        **HQQ4.rules,
        "linear_attn.in_proj_z.weight": Grid(2, 32),
        "self_attn.k_proj.weight": Grid(8, 64),
        "mlp.gate_proj.weight": Grid(3, 128),
        "layers.0.mlp.down_proj.weight": None,
    }
)
SLOW = pytest.mark.slow


def logits(folder, dtype, device, *, prefix=True, recipe=None, lengths=LENGTHS):
    """Of random texts in one batch, on ``device``, as the runner computes them."""
    source = Checkpoint.open(folder)
    head = tiny.head(source, device)
    scratch = None
    if recipe is not None:
        source, scratch = QuantizedCheckpoint(source, recipe, torch.device("cpu")), Scratch(dtype, device)
    model = Model(Weights(source, dtype, device, scratch), 160)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, tiny.VOCABULARY, (n,), generator=generator, device="cpu").numpy() for n in lengths]
    ids, lengths = pad(texts, max(lengths) + 4, len(texts))
    with torch.inference_mode():
        before = model.prefix(PREFIX.to(device)) if prefix else None
        return head(model(ids.to(device), lengths.to(device), before))[0].cpu()


@pytest.fixture
def both(triton_path):
    """Logits by the torch path on the CPU and by the Triton path, with the same arguments."""

    def run(folder, dtype, **options):
        return expected(folder, dtype, **options), logits(folder, dtype, triton_path, **options)

    return run


def expected(folder, dtype, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slant_kernels.launch.on_gpu", lambda x: False)
        with torch.device("cpu"):
            return logits(folder, dtype, torch.device("cpu"), **options)


@pytest.mark.parametrize(
    ("shape", "prefix"),
    [
        ("attention first and last", True),
        pytest.param("attention first and last", False, marks=SLOW),
        pytest.param("odd heads", True, marks=SLOW),
        pytest.param("odd heads", False, marks=SLOW),
        pytest.param("linear last", True, marks=SLOW),
        pytest.param("linear last", False, marks=SLOW),
        pytest.param("grouped", True, marks=SLOW),
        pytest.param("grouped", False, marks=SLOW),
    ],
)
def test_fp32_equals_the_torch_path(tiny_checkpoint, both, shape, prefix):
    assert_fp32(both(tiny_checkpoint(shape), torch.float32, prefix=prefix))


@pytest.mark.parametrize("shape", ["odd heads", "linear last"])
def test_fp32_of_short_texts_equals_the_torch_path(tiny_checkpoint, both, shape):
    assert_fp32(both(tiny_checkpoint(shape), torch.float32, prefix=False, lengths=(1, 5)))


@SLOW
def test_fp32_of_more_texts_equals_the_torch_path(tiny_checkpoint, both):
    assert_fp32(both(tiny_checkpoint("grouped"), torch.float32, lengths=(30, 64, 130)))


def assert_fp32(paths):
    torch_path, triton_path = paths
    assert torch_path.std() > 0.1
    torch.testing.assert_close(triton_path, torch_path, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [pytest.param("grouped", marks=SLOW), "real head sizes"])
def test_bf16_is_as_close_to_the_truth_as_the_torch_path(tiny_checkpoint, both, shape):
    assert_bf16(tiny_checkpoint(shape), both)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        pytest.param(HQQ4, {}, marks=SLOW),
        (MIXED, {"prefix": False, "lengths": (1, 5)}),
        pytest.param(MIXED, {}, marks=SLOW),
        pytest.param(tiny.recipe("hqq8"), {}, marks=SLOW),
    ],
    ids=["hqq4", "mixed, short texts", "mixed", "hqq8"],
)
def test_quantized_weights(tiny_checkpoint, both, recipe, options):
    assert_bf16(tiny_checkpoint("attention first and last"), both, recipe=recipe, **options)


def assert_bf16(folder, both, **options):
    """Twice the torch path's distance to fp32 at most."""
    truth = expected(folder, torch.float32, **options)
    theirs, ours = (found - truth for found in both(folder, torch.bfloat16, **options))
    assert 0 < ours.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()


def test_the_runner_replays_what_it_computes(tiny_checkpoint, triton_path):
    """Batches, prefix, packed weights and graphs, a stand-in without a GPU: replay equals eager bit for bit."""
    device, dtype = triton_path, torch.bfloat16
    source = tiny.quantized(tiny_checkpoint("one linear layer"), HQQ4)
    head = tiny.head(source, device)
    model = Model(Weights(source, dtype, device, Scratch(dtype, device)), 64)
    planner = Planner(64, 64, step=STEP[device.type])
    plain = Runner(model, head, PREFIX.tolist(), planner)
    graphs = Runner(model, head, PREFIX.tolist(), planner, capture_on(device))
    generator = torch.Generator().manual_seed(0)
    bodies = [torch.randint(0, tiny.VOCABULARY, (n,), generator=generator, device="cpu") for n in (13, 16, 28)]
    texts = [torch.cat([PREFIX.cpu(), body]).int().numpy() for body in bodies]
    shapes = [batch.shape[:2] for batch in plain.batches(texts)]
    assert shapes == [(1, 32), (2, 16)]
    graphs.record(shapes)
    for one, other in zip(plain.run(texts), graphs.run(texts), strict=True):
        assert one.rows == other.rows
        assert (one.logits == other.logits).all()
