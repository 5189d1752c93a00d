"""Blocks that visit the device from the host: the same bits as resident ones, in two slots."""

from functools import cache

import numpy as np
import pytest
import torch

import tiny
from slant.batching.plan import Planner
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.qwen3_5.blocks import Block
from slant.model.weights import Weights
from slant.runtime.offload import OffloadRunner, groups
from slant.runtime.offloaded_blocks import BlocksInHostMemory, placed, tensors
from slant.runtime.runner import Runner
from slant_kernels.merged import Scratch

CPU = torch.device("cpu")
PREFIX = tuple(range(5, 12))
MAX_TOKENS = 256


@cache
def source(folder, recipe):
    """The checkpoint, or seen through a recipe and quantized once."""
    return tiny.quantized(folder, tiny.recipe(recipe)) if recipe else Checkpoint.open(folder)


def weights(folder, recipe, dtype):
    return Weights(source(folder, recipe), dtype, CPU, Scratch(dtype, CPU) if recipe else None)


def sequences():
    rng = np.random.default_rng(0)
    bodies = [rng.integers(0, tiny.VOCABULARY, n, dtype=np.int32) for n in (1, 5, 40, 64, 65, 130)]
    return [*bodies, *(np.array([*PREFIX, *body], dtype=np.int32) for body in bodies)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", [None, "hqq4"])
@pytest.mark.parametrize("shape", ["grouped", "attention first and last", "one attention layer"])
def test_offloaded_equals_resident_bit_for_bit(tiny_checkpoint, shape, recipe, dtype):
    """With an even number of layers, an odd one, whose first follows its last in the same slot, and a single one."""
    folder = tiny_checkpoint(shape)
    made = weights(folder, recipe, dtype)
    head = tiny.head(made.source)
    planner = Planner(300, MAX_TOKENS, step=8)
    resident = Runner(Model(Weights(made.source, dtype, CPU), MAX_TOKENS), head, PREFIX, planner)
    offloaded = OffloadRunner.from_host_memory(made, CPU, head, PREFIX, planner, MAX_TOKENS)
    assert offloaded.group_tokens == planner.token_budget, "three groups of several batches"
    for _ in range(2):
        theirs, ours = list(resident.run(sequences())), list(offloaded.run(sequences()))
        assert [r.rows for r in ours] == [r.rows for r in theirs]
        for one, other in zip(theirs, ours, strict=True):
            assert np.isfinite(one.logits).all()
            assert np.array_equal(one.logits, other.logits)


@pytest.mark.parametrize("shape", ["grouped", "attention first and last"])
def test_a_block_keeps_its_values_until_it_was_used(tiny_checkpoint, shape):
    """The next block arrives while this one is in use, and never in its place."""
    made = weights(tiny_checkpoint(shape), "hqq4", torch.float32)
    layers, config = BlocksInHostMemory(made, CPU), made.source.config
    for index in [*range(len(layers)), *range(len(layers))]:
        expected = tensors(Block(config, made, index))
        with layers.use(index) as block:
            found = tensors(block)
            assert len(found) == len(expected)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_device_holds_two_blocks(tiny_checkpoint):
    made = weights(tiny_checkpoint("grouped"), "hqq4", torch.bfloat16)
    layers = BlocksInHostMemory(made, CPU)
    sizes = [sum(t.nbytes for t in tensors(Block(made.source.config, made, i))) for i in range(len(layers))]
    held = sum(slot.nbytes for slot in layers._slots)
    assert 2 * max(sizes) <= held <= 2 * (max(sizes) + 256 * 40)
    slots = [(slot.data_ptr(), slot.data_ptr() + slot.nbytes) for slot in layers._slots]
    for index in range(len(layers)):
        with layers.use(index) as block:
            first, last = slots[index % 2]
            assert all(first <= t.data_ptr() and t.data_ptr() + t.nbytes <= last for t in tensors(block))


def test_tensors_are_those_of_the_checkpoint(tiny_checkpoint):
    """Every element of a layer is in the list once: nothing stays behind on the host."""
    made = weights(tiny_checkpoint("grouped"), None, torch.float32)
    for index in range(made.source.config.num_hidden_layers):
        stored = [info for name, info in made.source.tensors.items() if name.startswith(f"layers.{index}.")]
        found = tensors(Block(made.source.config, made, index))
        assert sum(t.numel() for t in found) == sum(int(np.prod(info.shape)) for info in stored)


def test_placed_lays_tensors_side_by_side(tiny_checkpoint):
    made = weights(tiny_checkpoint("grouped"), None, torch.float32)
    block = Block(made.source.config, made, 0)
    memory = torch.empty(sum(-(-t.nbytes // 256) * 256 for t in tensors(block)), dtype=torch.uint8)
    moved = placed(block, memory, fill=True)
    starts = [t.data_ptr() - memory.data_ptr() for t in tensors(moved)]
    assert starts == sorted(starts)
    assert all(start % 256 == 0 for start in starts)
    assert all(torch.equal(one, other) for one, other in zip(tensors(moved), tensors(block), strict=True))


class Sized:
    def __init__(self, tokens):
        self.ids = torch.empty(tokens)


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [([5, 5, 5], 10, [[5, 5], [5]]), ([20, 1, 9, 1], 10, [[20], [1, 9], [1]]), ([3, 4], None, [[3, 4]]), ([], 4, [])],
)
def test_groups_are_bounded(tokens, limit, expected):
    found = groups([Sized(n) for n in tokens], limit)
    assert [[batch.ids.numel() for batch in group] for group in found] == expected
