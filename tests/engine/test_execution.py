"""Static batches computed op by op, by replay of a recorded shape, and after memory ran out."""

import numpy as np
import pytest
import torch

import tiny
from peak import PeakBytes
from slant.batching.batches import StaticBatch
from slant.batching.buckets import bucket_lengths
from slant.batching.costs import Formula
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.qwen3_5 import Model
from slant.model.weights import Weights
from slant.runtime import runner as runner_module
from slant.runtime.execution import Graphs, Head, graph_shapes, stand_in_capture
from slant.runtime.runner import Runner

PREFIX = (5, 6, 7)
OPTIONS = {"max_tokens": 128, "token_budget": 256}


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    checkpoint = Checkpoint.open(tiny_checkpoint("grouped"))
    head = Head(checkpoint.read("norm.weight").float(), checkpoint.head_rows(tiny.ANSWERS).float(), 1e-6)
    return Model(Weights(checkpoint, torch.float32, torch.device("cpu")), 128), head


def sequences(*lengths, prefix=PREFIX):
    rng = np.random.default_rng(0)
    return [np.array([*prefix, *rng.integers(0, tiny.VOCABULARY, n)], dtype=np.int32) for n in lengths]


def logits(runner, texts):
    found = np.full((len(texts), 5), np.nan, dtype=np.float32)
    for result in runner.run(texts):
        found[list(result.rows)] = result.logits
    assert np.isfinite(found).all()
    return found


def test_replay_equals_eager_bit_for_bit(model):
    texts = sequences(1, 5, 16, 17, 30, 31, 60, 100)
    plain, graphs = Runner(*model, PREFIX, **OPTIONS), Runner(*model, PREFIX, **OPTIONS, capture=stand_in_capture)
    shapes = [batch.shape[:2] for batch in plain.batches(texts)]
    graphs.record(shapes)
    replays = count(graphs)
    for _ in range(2):  # the second time the buffers hold the first one's texts
        assert np.array_equal(logits(graphs, texts[::-1]), logits(plain, texts[::-1]))
        assert np.array_equal(logits(graphs, texts), logits(plain, texts))
    assert replays == [4 * len(shapes)]


def count(runner):
    """Counts replays of all recorded shapes."""
    graphs, replays = runner._graphs, [0]
    for shape, buffers in graphs._buffers.items():

        def replay(replay=buffers.replay):
            replays[0] += 1
            replay()

        graphs._buffers[shape] = type(buffers)(buffers.ids, buffers.lengths, buffers.answers, replay)
    return replays


def test_fewer_lines_fill_a_recorded_shape_and_more_run_eagerly(model):
    plain, graphs = Runner(*model, PREFIX, **OPTIONS), Runner(*model, PREFIX, **OPTIONS, capture=stand_in_capture)
    graphs.record([(1, 16), (3, 16)])
    replays = count(graphs)
    for lengths, replayed in (([9], 1), ([9, 12], 1), ([9, 12, 13], 1), ([9, 12, 13, 14], 0), ([17], 0)):
        replays[0], texts = 0, sequences(*lengths)
        torch.testing.assert_close(*(torch.from_numpy(logits(r, texts)) for r in (graphs, plain)), atol=1e-5, rtol=1e-5)
        assert replays == [replayed]
    without_prefix = sequences(9, prefix=())
    replays[0] = 0
    assert np.array_equal(logits(graphs, without_prefix), logits(plain, without_prefix))
    assert replays == [0]


def test_the_largest_shape_is_recorded_first_and_none_twice(model):
    seen = []

    def capture(compute):
        seen.append(compute.__defaults__[0].shape)
        return stand_in_capture(compute)

    runner = Runner(*model, PREFIX, **OPTIONS, capture=capture)
    runner.record([(1, 16), (4, 32), (1, 48)])
    runner.record([(1, 16), (2, 16)])
    assert [tuple(shape) for shape in seen] == [(4, 32), (1, 48), (1, 16), (2, 16)]


def limited(runner, tokens):
    """Runs out of memory above ``tokens`` computed tokens, as a small GPU would."""
    compute = runner._eager.compute

    def checked(ids, lengths, start):
        if ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(ids, lengths, start)

    runner._eager.compute = checked
    return runner


def test_out_of_memory_halves_the_batch_and_loses_no_text(model):
    texts = sequences(*[16] * 15, 90)
    expected = logits(Runner(*model, PREFIX, **OPTIONS), texts)
    runner = limited(Runner(*model, PREFIX, **OPTIONS), 128)
    with pytest.warns(UserWarning, match="15 x 16 tokens ran out of memory and is computed in two halves"):
        found = logits(runner, texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_does_not_fit_at_all_is_an_error_with_advice(model):
    with pytest.raises(SlantError, match="a text of 96 tokens does not fit"):
        logits(limited(Runner(*model, PREFIX, **OPTIONS), 64), sequences(90))
    small = limited(Runner(*model, PREFIX, **OPTIONS), 64)
    with pytest.raises(SlantError, match="token_budget of 64 or less"), pytest.warns(UserWarning, match="two halves"):
        logits(small, sequences(*[16] * 16))


def test_padding_and_halving_keep_rows_and_order():
    batch = StaticBatch((7, 3, 5), 2, torch.arange(6).view(3, 2), torch.tensor([2, 1, 2]))
    full = batch.padded(5)
    assert full.shape == (5, 2, 2)
    assert full.ids[3:].eq(0).all()
    assert full.lengths.tolist() == [2, 1, 2, 1, 1]
    first, second = full.halves()
    assert (first.rows, second.rows) == ((7, 3), (5,))
    assert torch.equal(torch.cat([first.ids, second.ids]), batch.ids)
    assert torch.equal(torch.cat([first.lengths, second.lengths]), batch.lengths)


def test_graphs_choose_the_fewest_lines_that_fit(model):
    runner = Runner(*model, PREFIX, **OPTIONS, capture=stand_in_capture)
    runner.record([(8, 16), (2, 16), (4, 16)])
    assert isinstance(runner._graphs, Graphs)
    (result,) = runner.run(sequences(9, 9, 9))
    assert result.computed_tokens == 4 * 16


def test_the_shapes_worth_a_graph():
    shapes = graph_shapes(8162)
    assert (1, 16) in shapes
    assert (8, 256) in shapes
    assert max(lines * length for lines, length in shapes) <= 2048
    assert {length for lines, length in shapes if lines == 1} == {n for n in bucket_lengths(8162) if n <= 2048}
    assert graph_shapes(20) == [(lines, length) for lines in (1, 2, 4, 8) for length in (16, 20)]


def test_batches_are_submitted_ahead_of_the_answers(model, monkeypatch):
    texts = sequences(1, 20, 40, 60, 80, 100)
    expected = logits(Runner(*model, PREFIX, **OPTIONS), texts)
    monkeypatch.setitem(runner_module.AHEAD, "cpu", 2)
    runner = Runner(*model, PREFIX, **OPTIONS, capture=stand_in_capture)
    runner.record((1, length) for length in (8, 24, 40, 64, 80, 104))
    replays, ahead = count(runner), []
    for done, result in enumerate(runner.run(texts)):
        assert result.rows == (5 - done,)
        ahead.append(replays[0] - done)
    assert ahead == [3, 3, 3, 3, 2, 1]
    assert np.array_equal(logits(runner, texts), expected)


def test_deterministic_shapes_and_bits_do_not_depend_on_the_company(model):
    runner = Runner(*model, PREFIX, **OPTIONS, deterministic=True)
    mine, *others = sequences(9, 9, 12, 40, 1, 16, 16, 16)
    alone = logits(runner, [mine])[0]
    (batch,) = runner.batches([mine])
    assert batch.shape == (256 // 16, 16, len(PREFIX))
    for company in (others[:1], others[:4], others):
        assert np.array_equal(logits(runner, [*company, mine])[-1], alone)
    np.testing.assert_allclose(logits(Runner(*model, PREFIX, **OPTIONS), [mine])[0], alone, atol=1e-5)


def test_batches_are_planned_by_their_costs(model):
    """Where a batch costs more than its tokens, texts of several buckets share one."""
    plain = Runner(*model, PREFIX, **OPTIONS)
    costly = Runner(*model, PREFIX, **OPTIONS, costs=Formula(overhead=1.0, token=1e-6))
    texts = sequences(10, 20, 40)
    assert [batch.shape[:2] for batch in plain.batches(texts)] == [(1, 40), (1, 24), (1, 16)]
    assert [batch.shape[:2] for batch in costly.batches(texts)] == [(3, 40)]
    np.testing.assert_allclose(logits(costly, texts), logits(plain, texts), atol=1e-5)


def test_a_deadline_keeps_batches_short(model):
    costs = Formula(overhead=0.0, token=1e-3)
    runner = Runner(*model, PREFIX, **OPTIONS, costs=costs, max_seconds=0.05)
    texts = sequences(*[16] * 7, 100)
    assert [batch.shape[:2] for batch in runner.batches(texts)] == [(1, 104), (3, 16), (3, 16), (1, 16)]
    np.testing.assert_allclose(logits(runner, texts), logits(Runner(*model, PREFIX, **OPTIONS), texts), atol=1e-5)


def test_a_call_gives_all_its_memory_back(model):
    """Once shapes are recorded, nothing that a call allocates outlives it."""
    texts = sequences(1, 5, 16, 17, 30, 100)
    runner = Runner(*model, PREFIX, **OPTIONS, capture=stand_in_capture)
    runner.record(batch.shape[:2] for batch in runner.batches(texts))
    for _ in range(3):
        with PeakBytes() as peak:
            logits(runner, texts)
        assert peak.bytes > 0
        assert peak.live == 0
