"""The whole model on the Triton path, in the interpreter without a GPU, against the torch path."""

import pytest
import torch

import tiny
from slant.batches import pad
from slant.buckets import Batch
from slant.checkpoint import Checkpoint
from slant.execution import Head
from slant.model import Model
from slant.quantization.quantize import QuantizedCheckpoint
from slant.quantization.recipe import Recipe
from slant.weights import Weights
from slant_kernels.packed import Scratch

LENGTHS = (1, 30, 64, 70)
PREFIX = torch.arange(5, 12)


def logits(folder, dtype, device, *, prefix, recipe=None):
    """Of four random texts in one batch, on ``device``, as the runner computes them."""
    source = Checkpoint.open(folder)
    head = Head(source.read("norm.weight").float().to(device), source.head_rows(tiny.ANSWERS).float().to(device), 1e-6)
    scratch = None
    if recipe is not None:
        source, scratch = QuantizedCheckpoint(source, Recipe.named(recipe), torch.device("cpu")), Scratch(dtype, device)
    model = Model(Weights(source, dtype, device, scratch), 128)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, tiny.VOCABULARY, (n,), generator=generator, device="cpu").numpy() for n in LENGTHS]
    ids, lengths = pad(Batch(tuple(range(len(texts))), 80), texts)
    with torch.inference_mode():
        before = model.prefix(PREFIX.to(device)) if prefix else None
        return head(model(ids.to(device), lengths.to(device), before)).logits.cpu()


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


@pytest.mark.parametrize("prefix", [False, True], ids=["whole", "after the prefix"])
@pytest.mark.parametrize("shape", ["grouped", "odd heads", "attention first and last", "linear last"])
def test_fp32_equals_the_torch_path(tiny_checkpoint, both, shape, prefix):
    torch_path, triton_path = both(tiny_checkpoint(shape), torch.float32, prefix=prefix)
    assert torch_path.std() > 0.1
    torch.testing.assert_close(triton_path, torch_path, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", ["grouped", "real head sizes"])
def test_bf16_is_as_close_to_the_truth_as_the_torch_path(tiny_checkpoint, both, shape):
    folder = tiny_checkpoint(shape)
    truth = expected(folder, torch.float32, prefix=True)
    theirs, ours = (found - truth for found in both(folder, torch.bfloat16, prefix=True))
    assert 0 < ours.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("recipe", ["hqq8", "hqq4"])
def test_packed_weights(tiny_checkpoint, both, recipe):
    folder = tiny_checkpoint("grouped")
    truth = expected(folder, torch.float32, prefix=True, recipe=recipe)
    theirs, ours = (found - truth for found in both(folder, torch.bfloat16, prefix=True, recipe=recipe))
    assert 0 < ours.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()
