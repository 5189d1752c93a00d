"""Batches: every text once, in one shape, within the budget, with little padding, and the best of all partitions."""

import time
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slant.batching.buckets import bucket_length, bucket_lengths
from slant.batching.costs import TOKENS, BatchCosts
from slant.batching.plan import MOST_ROWS, ROUNDING, Planner, Slots

LIMIT = 8162  # 8192 tokens without the prompt's prefix of 30
TEXTS = st.lists(st.integers(1, 2000), max_size=200)
BUDGETS = st.integers(1, 5000)
# The defaults of the CPU and the CUDA kind: overheads of 26 and 260 tokens, with their budgets.
CPU, CUDA = BatchCosts(0.058, 2.2e-3, 2e-5), BatchCosts(7.3e-3, 2.8e-5, 8e-6)
DEVICES = [(CPU, 2048), (CUDA, 16384)]


@cache
def grid(seed, monotone):
    values = np.random.default_rng(seed).uniform(0.1, 1, (50, 160)) ** 3  # over 700 // 16 rows, 150 tokens
    return np.sort(np.sort(values, axis=0), axis=1) if monotone else values


@dataclass(frozen=True)
class Random:
    """Costs without any structure but that ``monotone`` ones never fall, as far as the grid goes."""

    seed: int
    monotone: bool = False

    def seconds(self, rows, length):
        values = grid(self.seed, self.monotone)
        return values[np.asarray(rows) % values.shape[0], length % values.shape[1]]


NOISY = Random(0)
COSTS = st.sampled_from([TOKENS, CPU, CUDA, NOISY])


def plan(lengths, token_budget, limit, costs=TOKENS, **options):
    return Planner(token_budget, limit, costs, **options).plan(lengths, limit)


def greedy(lengths, token_budget, limit):
    """Buckets one by one, each batch filled before the next: the yardstick."""
    batches: list[Slots] = []
    rows: list[int] = []
    length = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        padded = bucket_length(lengths[row], limit)
        if rows and (padded != length or (len(rows) + 1) * length > token_budget):
            batches.append(Slots(tuple(rows), length, len(rows)))
            rows = []
        rows.append(row)
        length = padded
    return [*batches, Slots(tuple(rows), length, len(rows))] if rows else batches


def total(batches, costs):
    return sum(float(costs.seconds(batch.padded_rows, batch.length)) for batch in batches)


def real_share(batches, lengths):
    """Real over computed tokens."""
    return sum(lengths) / sum(batch.padded_rows * batch.length for batch in batches)


def posts(count, rng):
    """Tokens after the prefix, as the posts of ``mixtures.py``."""
    return [int(n) for n in np.clip(rng.lognormal(np.log(55), 0.5, count), 5, 280).astype(int) + 58]


def speeches(count, rng):
    """As the 254 speeches of ``benchmarks/texts.py``: median 690 tokens, nine of ten between 170 and 2100."""
    return [int(n) for n in np.clip(rng.lognormal(np.log(690), 0.71, count), 25, 8104).astype(int) + 58]


@given(st.integers(1, 9000), st.sampled_from([8, 16]))
def test_bucket_lengths_ascend_to_the_limit(limit, step):
    lengths = bucket_lengths(limit, step)
    assert lengths[-1] == limit
    assert list(lengths) == sorted(set(lengths))


@pytest.mark.parametrize("fine", [1, 2])
def test_steps_are_as_documented(fine):
    lengths = bucket_lengths(8192, 16 // fine)
    for before, after in zip((0, *lengths), lengths, strict=False):
        step = (after - before) * fine
        assert step <= (16 if after <= 256 else 32 if after <= 512 else 64 if after <= 1024 else 0.15 * before)


def test_fine_steps_pad_less_unless_shapes_must_be_few():
    lengths = posts(200, np.random.default_rng(0))
    coarse, fine = plan(lengths, 2048, 8000), plan(lengths, 2048, 8000, step=8)
    assert real_share(fine, lengths) > real_share(coarse, lengths) + 0.02
    assert plan(lengths, 2048, 8000, deterministic=True, step=8) == plan(lengths, 2048, 8000, deterministic=True)


@given(st.data(), st.integers(1, 9000))
def test_a_bucket_is_the_smallest_that_holds_the_tokens(data, limit):
    tokens = data.draw(st.integers(1, limit))
    padded = bucket_length(tokens, limit)
    assert tokens <= padded <= limit
    assert not any(tokens <= smaller < padded for smaller in bucket_lengths(limit))


@pytest.mark.parametrize("tokens", [0, 101])
def test_tokens_outside_the_limit_are_an_error(tokens):
    with pytest.raises(ValueError, match=f"{tokens} tokens"):
        bucket_length(tokens, 100)
    with pytest.raises(ValueError, match=f"{tokens} tokens"):
        plan([50, tokens], 1000, 100, CPU)


@given(TEXTS, BUDGETS, COSTS, st.booleans())
def test_every_text_once_in_a_bucket_that_holds_it_within_the_budget(lengths, budget, costs, deterministic):
    batches = plan(lengths, budget, 2000, costs, deterministic=deterministic)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.padded_rows == 1 or batch.padded_rows * batch.length <= budget
        assert len(batch.rows) <= batch.padded_rows
        assert bucket_length(max(lengths[row] for row in batch.rows), 2000) == batch.length
    ordered = [lengths[row] for batch in batches for row in batch.rows]
    assert ordered == sorted(ordered, reverse=True)


@given(TEXTS, BUDGETS)
def test_by_tokens_the_fewest_tokens_in_the_fewest_batches(lengths, budget):
    batches = plan(lengths, budget, limit=2000)
    assert batches == greedy(lengths, budget, 2000)
    for batch in batches:
        assert {bucket_length(lengths[row], 2000) for row in batch.rows} == {batch.length}
    for one, other in pairwise(batches):
        if one.length == other.length:
            assert (len(one.rows) + 1) * one.length > budget


def test_by_tokens_not_one_token_of_padding_is_added():
    assert [batch.length for batch in plan([17, 16], 1000, limit=17)] == [17, 16]


def test_by_tokens_a_texts_length_does_not_depend_on_its_neighbours():
    assert plan([70], 4096, 8192)[0].length == plan([70, 400, 3], 4096, 8192)[1].length == 80


@given(TEXTS, BUDGETS, st.sampled_from([CPU, CUDA, NOISY]))
def test_never_slower_than_greedy(lengths, budget, costs):
    planned, yardstick = plan(lengths, budget, 2000, costs), greedy(lengths, budget, 2000)
    assert total(planned, costs) <= total(yardstick, costs) * (1 + len(planned) * ROUNDING)


@given(TEXTS, BUDGETS, st.integers(0, 1000))
def test_padding_is_added_only_where_a_saved_batch_is_worth_it(lengths, budget, overhead):
    """More computed tokens than with every text in its own bucket, at most the overhead for each batch fewer."""
    planned, yardstick = plan(lengths, budget, 2000, BatchCosts(overhead, 1)), greedy(lengths, budget, 2000)
    computed, fewest = (sum(batch.padded_rows * batch.length for batch in some) for some in (planned, yardstick))
    assert fewest <= computed <= fewest + overhead * (len(yardstick) - len(planned)) + 0.5  # tokens are whole


def best_total(batches_of_lengths, budget, costs):
    """The least total over partitions, each a list of lists of lengths."""
    totals = []
    for parts in batches_of_lengths:
        shapes = [(len(part), bucket_length(max(part), 150)) for part in parts]
        if all(rows == 1 or rows * length <= budget for rows, length in shapes):
            totals.append(sum(float(costs.seconds(*shape)) for shape in shapes))
    return min(totals)


def runs(ordered):
    """All ways to cut a list into consecutive parts."""
    if not ordered:
        yield []
    for end in range(1, len(ordered) + 1):
        for rest in runs(ordered[end:]):
            yield [ordered[:end], *rest]


def partitions(items):
    """All ways to put items into groups, in any order."""
    if not items:
        yield []
        return
    first, *others = items
    for parts in partitions(others):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


@given(st.lists(st.integers(1, 150), min_size=1, max_size=8), st.integers(1, 700), st.integers(0, 99))
@settings(deadline=None)
def test_the_best_runs_under_any_costs(lengths, budget, seed):
    costs = Random(seed)
    expected = best_total(runs(sorted(lengths)), budget, costs)
    assert total(plan(lengths, budget, 150, costs), costs) == pytest.approx(expected)


@given(st.lists(st.integers(1, 150), min_size=1, max_size=6), st.integers(1, 700), st.integers(0, 99))
@settings(deadline=None)
def test_the_best_of_all_partitions_under_costs_that_never_fall(lengths, budget, seed):
    costs = Random(seed, monotone=True)
    expected = best_total(partitions(lengths), budget, costs)
    assert total(plan(lengths, budget, 150, costs), costs) == pytest.approx(expected)


@given(TEXTS, TEXTS, st.integers(1, 2000), BUDGETS, COSTS)
def test_a_deterministic_shape_is_the_same_in_any_company(some, others, tokens, budget, costs):
    shapes = set()
    for company in ([], some, others):
        batches = plan([tokens, *company], budget, 2000, costs, deterministic=True)
        shapes |= {(batch.length, batch.padded_rows) for batch in batches if 0 in batch.rows}
    ((length, rows),) = shapes
    assert length == bucket_length(tokens, 2000)
    assert rows == max(1, min(budget // length, MOST_ROWS))


@given(TEXTS, BUDGETS)
def test_deterministic_batches_are_full_but_for_the_last_of_a_bucket(lengths, budget):
    batches = plan(lengths, budget, 2000, deterministic=True)
    for one, other in pairwise(batches):
        assert len(one.rows) == one.padded_rows or one.length != other.length


def test_rows_are_padded_only_where_asked():
    assert [batch.padded_rows for batch in plan([5] * 7, 64, 100)] == [4, 3]
    assert [batch.padded_rows for batch in plan([5] * 7, 64, 100, deterministic=True)] == [4, 4]


@pytest.mark.parametrize(("costs", "budget"), DEVICES)
def test_one_long_text_among_tweets_pads_none_of_them(costs, budget):
    rng = np.random.default_rng(0)
    first, *others = plan([*posts(100, rng), LIMIT], budget, LIMIT, costs)
    assert first == Slots((100,), LIMIT, 1)
    assert max(batch.length for batch in others) <= 352


@pytest.mark.parametrize(("costs", "budget"), [*DEVICES, (TOKENS, 2048)])
def test_extremes(costs, budget):
    assert plan([], budget, LIMIT, costs) == []
    assert plan([1], budget, LIMIT, costs) == [Slots((0,), 16, 1)]
    equal = plan([100] * 1000, budget, LIMIT, costs)
    assert {batch.length for batch in equal} == {112}
    assert len(equal) == -(-1000 // (budget // 112))
    different = plan(list(range(1, 1001)), budget, LIMIT, costs)
    assert sum(len(batch.rows) for batch in different) == 1000
    unbounded = plan([5] * 3000, 10**9, LIMIT, costs)
    assert [len(batch.rows) for batch in unbounded] == [MOST_ROWS, MOST_ROWS, 3000 - 2 * MOST_ROWS]
    # A budget below every text: one row each.
    assert [len(batch.rows) for batch in plan([50] * 9, 1, LIMIT, costs)] == [1] * 9


@pytest.mark.parametrize(("costs", "budget"), [*DEVICES, (TOKENS, 2048), (TOKENS, 16384)])
def test_real_over_computed_tokens(costs, budget):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for lengths, least in ((posts(1024, rng), 0.90), (speeches(254, rng), 0.93)):
            assert real_share(plan(lengths, budget, LIMIT, costs), lengths) >= least


def test_planning_is_fast():
    """Processor time, which other programs hardly change; the bounds are several times what is needed here."""
    rng = np.random.default_rng(0)

    def seconds(lengths, budget):
        start = time.process_time()
        plan(lengths, budget, LIMIT, CUDA)
        return time.process_time() - start

    window, many = posts(1024, rng), posts(20_000, rng)
    assert min(seconds(window, 16384) for _ in range(5)) < 0.02
    assert min(seconds(window[:16], 16384) for _ in range(5)) < 0.001
    assert seconds(many, 10**9) < 1
