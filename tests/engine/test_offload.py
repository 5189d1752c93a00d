"""Blocks read from disk one by one give the very bits of the whole model, in the memory of one layer."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import child
import published
import tiny
from slant import Engine
from slant.batching.plan import Planner
from slant.demo import FOLDER, passages
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.qwen3_5 import blocks
from slant.model.registry import read_config
from slant.model.weights import Weights
from slant.runtime.offload import OffloadRunner
from slant.runtime.runner import Runner

CPU = torch.device("cpu")
TEXTS = [passage["text"] for passage in passages()]
MAX_TOKENS, BUDGET = 256, 300
PREFIX = tuple(range(5, 12))


def runners(folder, dtype, prefix):
    checkpoint = Checkpoint.open(folder)
    head = tiny.head(checkpoint)
    planner = Planner(BUDGET, MAX_TOKENS, step=8)
    plain = Runner(Model(Weights(checkpoint, dtype, CPU), MAX_TOKENS), head, prefix, planner)
    return plain, OffloadRunner.from_disk(Weights(checkpoint, dtype, CPU), head, prefix, planner, MAX_TOKENS)


def sequences():
    """Short, long, with the prefix, without it, and the prefix alone (which is no text after it)."""
    rng = np.random.default_rng(0)
    bodies = [rng.integers(0, tiny.VOCABULARY, n, dtype=np.int32) for n in (1, 2, 5, 40, 64, 65, 100, 130)]
    start = np.array(PREFIX, dtype=np.int32)
    return [*bodies, *(np.concatenate([start, body]) for body in bodies), start]


@pytest.mark.parametrize("prefix", [PREFIX, ()], ids=["prefix", "no prefix"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["grouped", "attention first and last", "linear last", "one attention layer"])
def test_bit_identical_to_the_runner(tiny_checkpoint, shape, dtype, prefix):
    plain, offloaded = runners(tiny_checkpoint(shape), dtype, prefix)
    theirs, ours = list(plain.run(sequences())), list(offloaded.run(sequences()))
    assert [r.rows for r in ours] == [r.rows for r in theirs]
    assert [r.computed_tokens for r in ours] == [r.computed_tokens for r in theirs]
    assert len(ours) > 4, "several batches"
    for one, other in zip(theirs, ours, strict=True):
        assert np.isfinite(one.logits).all()
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_texts_without_the_tokens_of_the_prefix(tiny_checkpoint):
    plain, offloaded = runners(tiny_checkpoint("grouped"), torch.float32, (94, 95))
    texts = [np.array([1, 2, 3], dtype=np.int32)]
    (one,), (other,) = list(plain.run(texts)), list(offloaded.run(texts))
    np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_bit_identical_to_the_engine(weights):
    texts = [*TEXTS[::4], "", None, "short", " ".join(TEXTS)]
    options = {"weights": weights, "device": "cpu", "max_tokens": 512, "truncation": "middle", "token_budget": 700}
    plain, offloaded = Engine.load(FOLDER, **options), Engine.offloaded(FOLDER, **options)
    theirs = plain.score(texts)
    seen = []
    offloaded.runner.progress = lambda done, total: seen.append((done, total))
    ours = offloaded.score(texts)
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    assert ours.error == theirs.error
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    assert ours.truncated.tolist() == theirs.truncated.tolist() == [False] * (len(texts) - 1) + [True]
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1)), "progress counts every batch of every block"


def test_nothing_in_nothing_out():
    engine = Engine.offloaded(FOLDER, device="cpu")
    assert len(engine.score([])) == 0
    assert engine.score([""]).error[0]


@pytest.mark.parametrize(
    ("options", "word"), [({"weights": "int7"}, "int7"), ({"token_budget": 0}, "token_budget"), ({"device": "x"}, "x")]
)
def test_an_option_that_cannot_be_is_refused(options, word):
    with pytest.raises(SlantError, match=word):
        Engine.offloaded(FOLDER, **options)


def test_one_block_is_held_at_a_time(tiny_checkpoint, monkeypatch):
    """The old block is gone before the next one is read, not when its name is assigned anew."""
    held = weakref.WeakSet()

    class Counted(blocks.Block):
        def __init__(self, *arguments):
            assert not held, "a block is still held while the next one is read"
            held.add(self)
            super().__init__(*arguments)

    _, offloaded = runners(tiny_checkpoint("grouped"), torch.float32, PREFIX)
    monkeypatch.setattr(blocks, "Block", Counted)
    assert len(list(offloaded.run(sequences()))) > 4
    assert not held


RUN = """
import sys, numpy as np, torch
from peak import resident_bytes
from slant.batching.plan import Planner
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime.execution import Head
from slant.runtime.offload import OffloadRunner
from slant.runtime.runner import Runner

torch.set_num_threads(1)
checkpoint, cpu = Checkpoint.open(sys.argv[1]), torch.device("cpu")
head = Head(checkpoint.read("norm.weight").float(), checkpoint.head_rows(range(5)).float(), 1e-6)
texts = [np.full(16, i % 50, dtype=np.int32) for i in range(8)]
planner = Planner(64, 64)
before = resident_bytes()
if sys.argv[2] == "offload":
    runner = OffloadRunner.from_disk(Weights(checkpoint, torch.float32, cpu), head, (), planner, 64)
else:
    runner = Runner(Model(Weights(checkpoint, torch.float32, cpu), 64), head, (), planner)
assert sum(len(result.rows) for result in runner.run(texts)) == len(texts)
print(resident_bytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_is_far_below_the_model(tmp_path):
    settings = {"vocab_size": 64, "num_hidden_layers": 32, "hidden_size": 256, "intermediate_size": 1536}
    folder = published.write_small(tmp_path, **settings)
    whole = tiny.weight_bytes(read_config(folder), 4, answers=0)

    def peak(way):
        return int(child.python("-c", RUN, folder, way).stdout)

    assert peak("resident") > 0.95 * whole, "the measurement sees the weights"
    assert peak("offload") < whole / 4, "of which most is the libraries' own first use"
