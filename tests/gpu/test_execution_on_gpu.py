"""What running costs beside arithmetic: no waiting, no compiling after the first time, the memory that is predicted."""

import warnings
from contextlib import contextmanager

import models
import numpy as np
import pytest
import torch

from gpu.device import DryRun, Gpu
from gpu.model_measures import Bench, Scope
from gpu.model_tiers import WAYS, load
from harness.workloads import PREFIX, prompts
from published import large
from slant.model.registry import activation_bytes
from slant.runtime.memory import MemoryRequest
from slant.runtime.warmup import compile_kernels
from slant_kernels.cross import no_compilation

# Of the real width, so that workspaces of libraries are small beside it, and few blocks.
WIDE = large(vocab_size=4096, num_hidden_layers=4)
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_key_heads": 1, "linear_num_value_heads": 2}
NARROW = large(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=4, head_dim=32, **HEADS)


@contextmanager
def no_synchronisation(place):
    """Within it, whatever makes the host wait for the GPU is an error."""
    if place.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recipe", [None, "hqq4", "fp8"])
@torch.inference_mode()
def test_a_forward_never_waits_for_the_device(device, recipe):
    network = models.model(device, recipe)
    head, prefix = models.head(device), network.prefix(torch.tensor(models.PREFIX, device=device))
    arguments = models.batch(device, (70, 1, 33), 80)
    for before in (None, prefix):
        head(network(*arguments, before))
        with no_synchronisation(device):
            logits = head(network(*arguments, before))[0]
        assert torch.isfinite(logits).all()


def test_submitting_never_waits_for_the_device(device, capture):
    """From ids on the host to answers on their way, op by op and replayed."""
    network, texts = models.model(device), models.sequences((30, 31))
    runner = models.runner(network, capture=capture)
    (batch,) = runner.batches(texts)
    runner.record([(4, 32)])
    for execution in (runner._eager, runner._graphs):
        assert np.isfinite(execution.submit(batch).logits).all()  # waits
        with no_synchronisation(device):
            answers = execution.submit(batch)
        assert np.isfinite(answers.logits).all()


@pytest.mark.parametrize("recipe", [None, "hqq8", "hqq4", "fp8"])
def test_nothing_compiles_after_the_kernels_were_made_ready(device, recipe):
    real = device.type == "cuda"
    budget, most = (2048, 500) if real else (128, 60)
    runner = models.runner(models.model(device, recipe), token_budget=budget)
    if real:
        source, sizes = models.source(recipe), (len(models.ANSWERS), len(models.PREFIX), models.MAX_TOKENS, budget)
        eight_bit = recipe if recipe == models.FP8 else None
        request = MemoryRequest(source.config, source.recipe, torch.bfloat16, device.type, *sizes, eight_bit=eight_bit)
        compile_kernels(request, quantized=source.recipe is not None)
    rng = np.random.default_rng(0)
    with no_compilation():
        for count in (1, 3, 12, 40, 120) if real else (3,):
            lengths = rng.integers(1, most, count)
            models.logits(runner, models.sequences(lengths))
            models.logits(runner, models.sequences(lengths, prefix=()))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_peak_memory_is_within_a_tenth_of_the_prediction(device, way):
    real = device.type == "cuda"
    config, bench = (WIDE, Gpu()) if real else (NARROW, DryRun())
    tokens = 8192 if real else 128
    measure = Bench(bench, None, Scope(config, max_tokens=tokens, short=128 if real else 16))
    # Libraries' workspaces are not predicted: they are there before.
    a = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    torch.nn.functional.linear(a, a)
    bench.free()
    before = bench.held()
    loaded = load(way, config, device, tokens)
    (row,) = measure.memory(loaded, before, before)
    assert row["predicted_peak_bytes"] > 0
    if real:
        assert row["peak_bytes"] == pytest.approx(row["predicted_peak_bytes"], rel=0.1)


def test_a_batch_that_does_not_fit_is_halved(device):
    """A limit of the allocator between what a batch needs and what its half does."""
    real = device.type == "cuda"
    config, length, rows = (WIDE, 256, 64) if real else (NARROW, 16, 8)
    loaded = load(WAYS[0], config, device, 1024)
    texts = prompts([PREFIX + length] * rows, config.vocab_size)
    small, large = loaded.runner(rows * length // 4), loaded.runner(rows * length)
    assert [batch.shape[:2] for batch in large.batches(texts)] == [(rows, length)]
    expected = models.logits(small, texts)  # and every kernel and workspace is there
    with limited(device, large, activation_bytes(config, 2, rows, length, "cuda"), rows * length):
        with pytest.warns(UserWarning, match=f"a batch of {rows} x {length} tokens ran out of memory"):
            found = models.logits(large, texts)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(models.logits(small, texts), expected)
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


class limited:
    """Three quarters of ``size`` bytes can be allocated within it; on the CPU batches of ``tokens`` fail."""

    def __init__(self, device, runner, size, tokens):
        self.device, self.runner, self.size, self.tokens = device, runner, size, tokens

    def __enter__(self):
        if self.device.type == "cuda":
            Gpu().free()
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit = torch.cuda.memory_reserved() + 0.75 * self.size
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
            return
        hidden = self.runner._eager.hidden

        def checked(ids, lengths, start):
            if ids.numel() >= self.tokens:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return hidden(ids, lengths, start)

        self.runner._eager.hidden = checked

    def __exit__(self, *_):
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
