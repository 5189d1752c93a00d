"""Batches: every text once, in one shape, within the budget, and with little padding."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slant.buckets import bucket_length, bucket_lengths, plan

LIMITS = st.integers(1, 9000)


@given(LIMITS)
def test_bucket_lengths_ascend_to_the_limit(limit):
    lengths = bucket_lengths(limit)
    assert lengths[-1] == limit
    assert list(lengths) == sorted(set(lengths))


def test_steps_are_as_documented():
    lengths = bucket_lengths(8192)
    for before, after in zip((0, *lengths), lengths, strict=False):
        step = after - before
        assert step <= (16 if after <= 256 else 32 if after <= 512 else 64 if after <= 1024 else 0.15 * before)


@given(st.data(), LIMITS)
def test_a_bucket_is_the_smallest_that_holds_the_tokens(data, limit):
    tokens = data.draw(st.integers(1, limit))
    padded = bucket_length(tokens, limit)
    assert tokens <= padded <= limit
    assert not any(tokens <= smaller < padded for smaller in bucket_lengths(limit))


@pytest.mark.parametrize("tokens", [0, 101])
def test_tokens_outside_the_limit_are_an_error(tokens):
    with pytest.raises(ValueError, match=f"{tokens} tokens"):
        bucket_length(tokens, 100)


@given(st.lists(st.integers(1, 2000), max_size=200), st.integers(1, 5000))
def test_every_text_once_within_the_budget(lengths, budget):
    batches = plan(lengths, budget, limit=2000)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch.rows) == 1 or len(batch.rows) * batch.length <= budget
        assert {bucket_length(lengths[row], 2000) for row in batch.rows} == {batch.length}
    assert [batch.length for batch in batches] == sorted((batch.length for batch in batches), reverse=True)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=100), st.integers(1, 5000))
def test_no_two_batches_of_a_length_could_be_one(lengths, budget):
    batches = plan(lengths, budget, limit=2000)
    for one, other in pairwise(batches):
        if one.length == other.length:
            assert (len(one.rows) + 1) * one.length > budget


def test_a_texts_shape_does_not_depend_on_its_neighbours():
    assert plan([70], 4096, 8192)[0].length == plan([70, 400, 3], 4096, 8192)[1].length == 80
