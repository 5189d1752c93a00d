"""Predicted seconds: the shape's FLOPs, and defaults near what was measured."""

import numpy as np
import pytest

import published
from slant.batching.costs import RATES, BatchCosts, default_costs

SMALL, LARGE = published.small(), published.large()


def test_flops_of_the_4b_shape():
    """7.14 GFLOP a token, 2.9 % less for the last block, and 8192 T^2 for each attention but the last."""
    token, square = LARGE.flops()
    assert token == pytest.approx(7.14e9 * (1 - 0.029), rel=0.001)
    assert square == 7 * 8192
    assert default_costs(LARGE, "cuda", 2).attention == square / token


@pytest.mark.parametrize(
    ("rows", "length", "measured"), [(1, 16, 0.0528), (1, 128, 0.2247), (8, 128, 1.538), (1, 1024, 1.664)]
)
def test_the_cpu_default_describes_the_machine_it_was_fitted_to(rows, length, measured):
    """Medians of the first run in ``cpu.jsonl``."""
    assert default_costs(SMALL, "cpu", 2, threads=2).seconds(rows, length) == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("device", "itemsize"), RATES)
def test_defaults_are_positive_and_grow(device, itemsize):
    for config in (SMALL, LARGE):
        costs = default_costs(config, device, itemsize, threads=4)
        seconds = np.stack([costs.seconds(np.arange(1, 9), length) for length in (16, 64, 1024, 8192)])
        assert (seconds > 0).all()
        assert (np.diff(seconds, axis=0) > 0).all()
        assert (np.diff(seconds, axis=1) > 0).all()


def test_threads_count_on_a_cpu_only():
    one, four = (default_costs(LARGE, "cpu", 2, threads).token for threads in (1, 4))
    assert one == 4 * four
    assert default_costs(LARGE, "cuda", 2, 1) == default_costs(LARGE, "cuda", 2, 4)


def test_seconds_of_several_rows_are_those_of_each():
    costs = BatchCosts(overhead=0.01, token=1e-4, attention=1e-2)
    rows = np.array([[1, 3], [70, 2]])
    np.testing.assert_allclose(costs.seconds(rows, 100), 0.01 + rows * 1e-4 * (100 + 100))
    each = [[float(costs.seconds(count, 100)) for count in line] for line in rows]
    np.testing.assert_array_equal(costs.seconds(rows, 100), each)
