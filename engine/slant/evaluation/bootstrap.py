"""The percentile bootstrap, by rows or by groups of rows, for any metrics that are functions of sums over rows.

Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. Rows of one group (the passages of one
speaker) are not independent: resampled one by one their intervals would be too narrow, so groups are resampled whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.metrics import Floats, Labels

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95
BLOCK = 1 << 22  # weights, and sums, at a time: memory must not grow with the rows or the labels


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled: float64 ``[units, s]``, the sums of each unit's rows.

    ``counts`` ``[units]`` says how many are alike; None: each unit stands for itself alone.
    """

    sums: Floats
    counts: Labels | None = None

    @classmethod
    def of_cells(cls, cells: Labels, width: int, groups: NDArray | None) -> Units:
        """Sums that count cells: int64 ``[n, m]``, the row's cell (0 to width - 1) in each of m confusion matrices.

        Without groups the units are the distinct rows of ``cells``: they are few, and how often each is in a resample
        is multinomial, so that the cost does not grow with n.
        """
        m, counts = cells.shape[1], None
        places = cells + width * np.arange(m)
        if groups is None:
            places, counts = np.unique(places, axis=0, return_counts=True)
            groups = np.arange(len(places))
        names, numbers = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(names), m * width))
        np.add.at(sums, (numbers[:, None], places), 1.0)
        return cls(sums, counts)

    @classmethod
    def of_values(cls, values: Floats, groups: NDArray | None) -> Units:
        """Sums of float64 ``[n, s]``."""
        if groups is None:
            return cls(values)
        names, numbers = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, numbers, values)
        return cls(sums)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its 95 % confidence interval; no interval where there is only one row or group to resample.

    ``undefined`` counts resamples in which the metric has no value: they are left out of the interval.
    """

    value: float
    low: float | None
    high: float | None
    undefined: int = 0


def bootstrap(
    units: Units, metrics: Callable[[Floats], Floats], resamples: int = RESAMPLES, seed: int = SEED
) -> list[Estimate | None]:
    """Metrics of the sample, with intervals from resamples of as many units, drawn with replacement.

    metrics: of the units' summed ``sums``, ``[..., s]`` to ``[..., f]``. None where the sample has no value (NaN).
    """
    rng, block = np.random.default_rng(seed), max(1, BLOCK // max(units.sums.shape))
    whole = np.ones(len(units.sums)) if units.counts is None else units.counts
    n = int(whole.sum())

    def weights(size: int) -> Floats:
        """``[size, units]``: how often each unit is in a resample."""
        if units.counts is not None:
            return rng.multinomial(n, units.counts / n, size=size).astype(np.float64)
        # As many binomials would take ten times as long.
        return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)]).astype(np.float64)

    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    drawn = np.concatenate([metrics(weights(size) @ units.sums) for size in sizes])
    found = []
    for value, column in zip(metrics(whole @ units.sums).tolist(), drawn.T, strict=True):
        undefined = int(np.isnan(column).sum())
        low = high = None
        if n > 1 and undefined < len(column):
            low, high = np.nanquantile(column, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
        found.append(None if np.isnan(value) else Estimate(value, low, high, undefined))
    return found
