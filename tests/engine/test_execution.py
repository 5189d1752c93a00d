"""Static batches computed op by op, by replay of a recorded shape, and after memory ran out."""

import warnings

import numpy as np
import pytest
import torch

import tiny
from capture import stand_in_capture
from peak import PeakBytes
from slant.batching.batches import StaticBatch
from slant.batching.buckets import bucket_lengths
from slant.batching.costs import BatchCosts
from slant.batching.plan import Planner
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime import runner as runner_module
from slant.runtime.graphs import Graphs, graph_shapes
from slant.runtime.runner import Runner

PREFIX = (5, 6, 7)
OPTIONS = {"max_tokens": 128, "token_budget": 256, "step": 8}


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    checkpoint = Checkpoint.open(tiny_checkpoint("grouped"))
    head = tiny.head(checkpoint)
    return Model(Weights(checkpoint, torch.float32, torch.device("cpu")), 128), head


def runner(model, capture=None, **options):
    return Runner(*model, PREFIX, Planner(**OPTIONS | options), capture)


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
    plain, graphs = runner(model), runner(model, stand_in_capture)
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


def test_fewer_rows_fill_a_recorded_shape_and_more_run_eagerly(model):
    plain, graphs = runner(model), runner(model, stand_in_capture)
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

    tested = runner(model, capture)
    tested.record([(1, 16), (4, 32), (1, 48)])
    tested.record([(1, 16), (2, 16)])
    assert [tuple(shape) for shape in seen] == [(4, 32), (1, 48), (1, 16), (2, 16)]


def limited(tested, tokens):
    """Runs out of memory above ``tokens`` computed tokens, as a small GPU would; ``tried`` lists all shapes."""
    hidden, tested.tried = tested._eager.hidden, []

    def checked(ids, lengths, start):
        tested.tried.append(tuple(ids.shape))
        if ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return hidden(ids, lengths, start)

    tested._eager.hidden = checked
    return tested


def test_out_of_memory_halves_the_batch_and_loses_no_text(model):
    texts = sequences(*[16] * 15, 90)
    expected = logits(runner(model), texts)
    small = limited(runner(model), 128)
    with pytest.warns(UserWarning, match="15 x 16 tokens ran out of memory and is computed in two halves"):
        found = logits(small, texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_does_not_fit_at_all_is_an_error_with_advice(model):
    with pytest.raises(SlantError, match="a text of 96 tokens does not fit"):
        logits(limited(runner(model), 64), sequences(90))
    small = limited(runner(model), 64)
    with pytest.raises(SlantError, match="token_budget of 64 or less"), pytest.warns(UserWarning, match="two halves"):
        logits(small, sequences(*[16] * 16))


def test_a_fixed_shape_that_does_not_fit_is_an_error_and_never_halved(model):
    """Also of a single text with padding rows: not the text is too large, but the shape that its bucket has."""
    message = (
        r"a batch of 16 x 16 tokens does not fit the memory of cpu, and deterministic fixes its shape; "
        r"give a token_budget of 128 or less\."
    )
    for texts in (sequences(*[16] * 16), sequences(9)):
        small = limited(runner(model, deterministic=True), 128)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SlantError, match=message):
                logits(small, texts)
        assert small.tried == [(16, 16)]
        logits(limited(runner(model, deterministic=True, token_budget=128), 128), texts)
    with pytest.raises(SlantError, match="a text of 96 tokens does not fit"):
        logits(limited(runner(model, deterministic=True, token_budget=100), 64), sequences(90))


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


def test_graphs_choose_the_fewest_rows_that_fit(model):
    tested = runner(model, stand_in_capture)
    tested.record([(8, 16), (2, 16), (4, 16)])
    assert isinstance(tested._graphs, Graphs)
    (result,) = tested.run(sequences(9, 9, 9))
    assert result.computed_tokens == 4 * 16


def test_the_shapes_worth_a_graph():
    shapes = graph_shapes(8162)
    assert (1, 16) in shapes
    assert (8, 256) in shapes
    assert max(rows * length for rows, length in shapes) <= 2048
    assert {length for rows, length in shapes if rows == 1} == {n for n in bucket_lengths(8162) if n <= 2048}
    assert graph_shapes(20) == [(rows, length) for rows in (1, 2, 4, 8) for length in (16, 20)]


def test_batches_are_submitted_ahead_of_the_answers(model, monkeypatch):
    texts = sequences(1, 20, 40, 60, 80, 100)
    expected = logits(runner(model), texts)
    monkeypatch.setitem(runner_module.AHEAD, "cpu", 2)
    tested = runner(model, stand_in_capture)
    tested.record((1, length) for length in (8, 24, 40, 64, 80, 104))
    replays, ahead = count(tested), []
    for done, result in enumerate(tested.run(texts)):
        assert result.rows == (5 - done,)
        ahead.append(replays[0] - done)
    assert ahead == [3, 3, 3, 3, 2, 1]
    assert np.array_equal(logits(tested, texts), expected)


def test_deterministic_shapes_and_bits_do_not_depend_on_the_company(model):
    tested = runner(model, deterministic=True)
    mine, *others = sequences(9, 9, 12, 40, 1, 16, 16, 16)
    alone = logits(tested, [mine])[0]
    (batch,) = tested.batches([mine])
    assert batch.shape == (256 // 16, 16, len(PREFIX))
    for company in (others[:1], others[:4], others):
        assert np.array_equal(logits(tested, [*company, mine])[-1], alone)
    np.testing.assert_allclose(logits(runner(model), [mine])[0], alone, atol=1e-5)


def test_batches_are_planned_by_their_costs(model):
    """Where a batch costs more than its tokens, texts of several buckets share one."""
    plain = runner(model)
    costly = runner(model, costs=BatchCosts(overhead=1.0, token=1e-6))
    texts = sequences(10, 20, 40)
    assert [batch.shape[:2] for batch in plain.batches(texts)] == [(1, 40), (1, 24), (1, 16)]
    assert [batch.shape[:2] for batch in costly.batches(texts)] == [(3, 40)]
    np.testing.assert_allclose(logits(costly, texts), logits(plain, texts), atol=1e-5)


def test_a_call_gives_all_its_memory_back(model):
    """Once shapes are recorded, nothing that a call allocates outlives it."""
    texts = sequences(1, 5, 16, 17, 30, 100)
    tested = runner(model, stand_in_capture)
    tested.record(batch.shape[:2] for batch in tested.batches(texts))
    for _ in range(3):
        with PeakBytes() as peak:
            logits(tested, texts)
        assert peak.bytes > 0
        assert peak.live == 0
