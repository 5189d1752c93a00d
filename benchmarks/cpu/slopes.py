"""Exponents of growth: the slope of log seconds against log size, by least squares, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
Samples = Mapping[int, Sequence[float]]  # seconds by size


@dataclass(frozen=True)
class Slope:
    """seconds = ``seconds_at_1`` * size ** ``exponent`` over sizes ``first`` to ``last``.

    The exponent is that of the medians; from ``low`` to ``high`` are 95 % of those of rounds drawn anew.
    """

    first: int
    last: int
    exponent: float
    low: float
    high: float
    seconds_at_1: float

    def seconds(self, size: float) -> float:
        return self.seconds_at_1 * size**self.exponent


def fit(samples: Samples, first: int = 1, last: int | None = None) -> Slope:
    """The slope over the sizes from ``first`` to ``last``; raises ValueError for fewer than two of them."""
    sizes = sorted(size for size in samples if first <= size and (last is None or size <= last))
    if len(sizes) < 2:
        raise ValueError(f"a slope takes two sizes, and from {first} on there are {len(sizes)}.")
    rng, x = np.random.default_rng(0), np.log(sizes)
    taken = [np.asarray(samples[size], dtype=np.float64) for size in sizes]
    medians = np.log([[np.median(one)] for one in taken])
    drawn = np.log([np.median(one[rng.integers(0, len(one), (RESAMPLES, len(one)))], axis=1) for one in taken])
    (exponent,), (offset,) = _lines(x, medians)
    low, high = np.percentile(_lines(x, drawn)[0], [2.5, 97.5])
    return Slope(sizes[0], sizes[-1], float(exponent), float(low), float(high), float(np.exp(offset)))


def flatness(samples: Samples, length: int, most: int) -> float:
    """The best over the worst median rate of tokens among batches of 1 to ``most`` texts of one length."""
    rates = [size * length / float(np.median(seconds)) for size, seconds in samples.items() if size <= most]
    return max(rates) / min(rates)


def _lines(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes and offsets of the columns of y ``[points, n]`` over x ``[points]``."""
    centred = x - x.mean()
    slopes = centred @ y / (centred @ centred)
    return slopes, y.mean(axis=0) - slopes * x.mean()
