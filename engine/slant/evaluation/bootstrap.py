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

    def __len__(self) -> int:
        return len(self.sums) if self.counts is None else int(self.counts.sum())

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
    drawn = np.concatenate(
        [
            metrics(_weights(units, min(block, resamples - start), rng) @ units.sums)
            for start in range(0, resamples, block)
        ]
    )
    whole = np.ones(len(units.sums)) if units.counts is None else units.counts
    values = metrics(whole @ units.sums).tolist()
    return [_estimate(value, column, len(units)) for value, column in zip(values, drawn.T, strict=True)]


def _estimate(value: float, drawn: Floats, units: int) -> Estimate | None:
    if np.isnan(value):
        return None
    undefined = int(np.isnan(drawn).sum())
    if units < 2 or undefined == len(drawn):
        return Estimate(value, None, None, undefined)
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Estimate(value, low, high, undefined)


def _weights(units: Units, size: int, rng: np.random.Generator) -> Floats:
    """``[size, units]``: how often each unit is in a resample."""
    n = len(units)
    if units.counts is None:  # as many binomials would take ten times as long
        drawn = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)])
    else:
        drawn = rng.multinomial(n, units.counts / n, size=size)
    return drawn.astype(np.float64)
