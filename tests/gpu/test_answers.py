"""The whole demo checkpoint: the labels of transformers, and the same bits however it is computed."""

import models
import numpy as np
import pytest
import torch
import truth

from slant import Engine
from slant.demo import FOLDER
from slant.runtime.offloaded_blocks import BlocksInHostMemory


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_labels_of_transformers_in_fp32(device, weights):
    scores = Engine.load(FOLDER, weights=weights, device=str(device), max_tokens=2048).score(truth.TEXTS)
    assert scores.error == [None] * len(truth.TEXTS)
    expected, found = truth.logits("fp32"), scores.logits
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    if weights == "fp32":
        # Some three times what the order of sums and the products of three tf32 parts are expected to make.
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
        return
    theirs = truth.logits("bf16") - expected
    assert 0 < rms(found - expected) <= 2 * rms(theirs)
    assert np.abs(found - expected).max() <= 2 * np.abs(theirs).max()


@pytest.mark.parametrize("recipe", [None, "hqq4", "fp8"])
def test_replay_equals_eager_bit_for_bit(device, capture, recipe):
    network, texts = models.model(device, recipe), models.sequences()
    plain, graphs = models.runner(network), models.runner(network, capture=capture)
    graphs.record(shape.shape[:2] for shape in plain.batches(texts))
    for _ in range(2):  # the second time the buffers hold the first one's texts
        assert np.array_equal(models.logits(graphs, texts), models.logits(plain, texts))
        assert np.array_equal(models.logits(graphs, texts[::-1]), models.logits(plain, texts[::-1]))


@pytest.mark.parametrize("recipe", [None, "hqq4", "fp8"])
@torch.inference_mode()
def test_padding_changes_nothing_at_all(device, recipe):
    network = models.model(device, recipe)
    ids, lengths = models.batch(device, (1, 40, 63), 80)
    padding = torch.arange(80, device=device) >= lengths[:, None]
    expected = network(ids.masked_fill(padding, 0), lengths)
    assert torch.equal(network(ids.masked_fill(padding, models.source().config.vocab_size - 1), lengths), expected)


@pytest.mark.parametrize("recipe", [None, "hqq4", "fp8"])
@torch.inference_mode()
def test_neighbours_change_nothing_at_all(device, recipe):
    """In a batch of the same shape, among other texts and in another row."""
    network = models.model(device, recipe)
    ids, lengths = models.batch(device, (50, 3, 64, 41, 17, 60), 64)
    first, moved = [0, 1, 2, 3], [5, 1, 0, 4]
    assert torch.equal(network(ids[first], lengths[first])[0], network(ids[moved], lengths[moved])[2])


def test_a_batch_is_as_close_to_the_truth_as_single_texts(device):
    """In bf16 a product of other sizes may add in another order: both are held to the distance of bf16 itself."""
    texts = models.sequences()
    exact = models.logits(models.runner(models.model(models.CPU, dtype=torch.float32)), texts)
    together = models.runner(models.model(device))
    alone = models.runner(models.model(device), token_budget=1)
    assert len(list(alone.batches(texts))) == len(texts) > len(list(together.batches(texts)))
    errors = [rms(models.logits(runner, texts) - exact) for runner in (together, alone)]
    assert 0 < max(errors) <= 2 * min(errors)


@pytest.mark.parametrize("recipe", ["hqq8", "hqq4", "fp8"])
def test_offloaded_equals_resident_bit_for_bit(device, recipe):
    """The residual stream is added by torch there and by a kernel here: both round once."""
    resident, offloaded = models.runner(models.model(device, recipe)), models.offloaded(device, recipe)
    texts = models.sequences() + models.sequences(prefix=(), seed=1)
    expected = models.logits(resident, texts)
    for _ in range(3):  # a block that arrived too early or too late would show in one of them
        assert np.array_equal(models.logits(offloaded, texts), expected)


@pytest.mark.parametrize("recipe", ["hqq8", "hqq4"])
def test_quantized_is_as_close_to_the_truth_as_dense(device, recipe):
    """A kernel that multiplies codes rounds the same weights alike and adds in another order."""
    texts = models.sequences()
    exact = models.logits(models.runner(models.model(models.CPU, recipe, torch.float32, quantized=False)), texts)
    dense = models.logits(models.runner(models.model(device, recipe, quantized=False)), texts)
    quantized = models.logits(models.runner(models.model(device, recipe)), texts)
    assert 0 < rms(quantized - exact) <= 2 * rms(dense - exact)


def test_fp8_is_as_close_to_the_truth_as_on_a_cpu(device):
    """There the products of the same codes are summed in fp32."""
    texts = models.sequences()
    exact = models.logits(models.runner(models.model(models.CPU, dtype=torch.float32)), texts)
    emulated = models.logits(models.runner(models.model(models.CPU, "fp8")), texts)
    found = models.logits(models.runner(models.model(device, "fp8")), texts)
    assert 0 < rms(found - exact) <= 1.5 * rms(emulated - exact)


@torch.inference_mode()
def test_an_embedding_on_the_host_gives_the_same_bits(device):
    network = models.Model(models.weights(device, "hqq4"), models.MAX_TOKENS, host_embedding=True)
    assert network.embedding.device.type == "cpu"
    batch = models.batch(device, (70, 1, 33), 80)
    assert torch.equal(network(*batch), models.model(device, "hqq4")(*batch))


def test_an_offloaded_block_keeps_its_values_until_it_was_used(device):
    """Slots are filled anew while work on the block that was in them is still queued."""
    made = models.weights(device, "hqq4", home=models.CPU)
    layers = BlocksInHostMemory(made, device)
    sums = []
    for _ in range(4):
        for index in range(len(layers)):
            with layers.use(index) as block:
                slow = torch.ones(1 << 20 if device.type == "cuda" else 1, device=device)
                for _ in range(200):  # what is read below is read late
                    slow = slow.sin()
                sums.append(sum(part.codes.long().sum() for part in block.gate_up.parts))
    found = torch.stack(sums).cpu().view(4, -1)
    assert torch.equal(found, found[:1].expand_as(found))
    expected = [
        sum(int(part.codes.long().sum()) for part in block.gate_up.parts)
        for block in models.Model(models.weights(models.CPU, "hqq4"), 16).blocks
    ]
    assert found[0].tolist() == expected
