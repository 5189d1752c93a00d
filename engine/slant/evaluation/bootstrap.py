"""The percentile bootstrap, by rows or by groups of rows, of any figures that are functions of sums over rows.

Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. Rows that belong together (the passages of
one speaker) are not independent: drawn one by one they would promise too much, so whole groups are drawn then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.metrics import Labels

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95
BLOCK = 1 << 22  # weights, and sums, at a time: memory must not grow with the rows or the labels

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Units:
    """What is drawn: float64 ``[units, s]``, the sums of each unit's rows.

    ``counts`` ``[units]`` says how many are alike; None: each unit stands for itself alone.
    """

    sums: Column
    counts: Labels | None = None

    def __len__(self) -> int:
        return len(self.sums) if self.counts is None else int(self.counts.sum())

    @classmethod
    def of_cells(cls, cells: Labels, width: int, groups: Labels | None) -> Units:
        """Sums that count cells: int64 ``[n, m]``, the row's cell (0 to width - 1) in each of m tables.

        Without groups the units are the distinct rows of ``cells``: they are few, and how often each is in a resample
        is multinomial, so that the cost does not grow with n.
        """
        m = cells.shape[1]
        places = cells + width * np.arange(m)
        counts = None
        if groups is None:
            places, counts = np.unique(places, axis=0, return_counts=True)
            groups = np.arange(len(places))
        names, numbers = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(names), m * width))
        np.add.at(sums, (numbers[:, None], places), 1.0)
        return cls(sums, counts)

    @classmethod
    def of_values(cls, values: Column, groups: Labels | None) -> Units:
        """Sums of float64 ``[n, s]``."""
        if groups is None:
            return cls(values)
        names, numbers = np.unique(groups, return_inverse=True)
        sums = np.zeros((len(names), values.shape[1]))
        np.add.at(sums, numbers, values)
        return cls(sums)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; the interval is None where there is only one row or one group to draw.

    ``undefined`` counts resamples in which the figure has no value: they are left out of the interval.
    """

    value: float
    low: float | None
    high: float | None
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class Resampled:
    """Figures of the sample ``[f]`` and of its resamples ``[resamples, f]``, which draw from ``units``."""

    values: Column
    drawn: Column
    units: int

    def percentiles(self) -> Column:
        """``[2, f]``: the 2.5th and the 97.5th percentile, of the resamples in which the figure is defined."""
        return np.nanquantile(self.drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)

    def estimates(self) -> list[Estimate | None]:
        """The figures with their intervals; None for one that the sample itself leaves undefined (NaN)."""
        undefined, found = np.isnan(self.drawn).sum(0).tolist(), list[Estimate | None]()
        for value, missing, column in zip(self.values.tolist(), undefined, self.drawn.T, strict=True):
            if np.isnan(value):
                found.append(None)
            elif self.units < 2 or missing == len(column):
                found.append(Estimate(value, None, None, missing))
            else:
                low, high = Resampled(self.values, column, self.units).percentiles().tolist()
                found.append(Estimate(value, low, high, missing))
        return found


def bootstrap(
    units: Units, figures: Callable[[Column], Column], resamples: int = RESAMPLES, seed: int = SEED
) -> Resampled:
    """Figures of the sample and of ``resamples`` of as many units, drawn with replacement.

    figures: of the units' summed ``sums``, ``[..., s]`` to ``[..., f]``.
    """
    rng, block = np.random.default_rng(seed), max(1, BLOCK // max(units.sums.shape))
    drawn = [
        figures(_weights(units, min(block, resamples - start), rng) @ units.sums)
        for start in range(0, resamples, block)
    ]
    whole = np.ones(len(units.sums)) if units.counts is None else units.counts
    return Resampled(figures(whole @ units.sums), np.concatenate(drawn), len(units))


def _weights(units: Units, size: int, rng: np.random.Generator) -> Column:
    """``[size, units]``: how often each unit is in a resample."""
    n = len(units)
    if units.counts is None:  # as many binomials would take ten times as long
        drawn = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)])
    else:
        drawn = rng.multinomial(n, units.counts / n, size=size)
    return drawn.astype(np.float64)
