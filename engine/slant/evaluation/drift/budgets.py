"""Budgets: limits on drift, and which of them a measured drift exceeds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from slant.artifact.drift_record import Drift
from slant.errors import SlantError


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits on the figures over all rows; None is no limit, and a figure equal to its limit is within it.

    ``max_flip_rate`` and ``max_weighted_flip_rate`` are shares, ``max_kl`` limits the mean of KL(reference || ours) in
    nats, ``max_p99_delta`` and ``max_p99_expected`` the 99th percentiles of |Δp| and |Δ expected|. ``max_lost`` limits
    the rows that the reference answered and we did not: by default 0, since no other figure includes them.
    """

    max_flip_rate: float | None = None
    max_weighted_flip_rate: float | None = None
    max_kl: float | None = None
    max_p99_delta: float | None = None
    max_p99_expected: float | None = None
    max_lost: int | None = 0

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not (math.isfinite(limit) and limit >= 0):
                raise SlantError(f"{name} is {limit}; give a number of at least 0.")


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A budget by its name, its limit, and the larger figure that was found."""

    budget: str
    limit: float
    found: float

    def __str__(self) -> str:
        return f"{self.budget} is {self.limit:g}, found {self.found:.4g}"


def exceeded(drift: Drift, budgets: Budgets) -> tuple[Exceeded, ...]:
    """The budgets that a drift exceeds, in the order of the fields; empty if it is within all of them."""
    f = drift.overall.figures
    found = f.flip_rate, f.weighted_flip_rate, f.kl.mean, f.delta.p99, f.expected.p99, drift.lost
    limits = asdict(budgets).items()
    compared = [Exceeded(name, limit, figure) for (name, limit), figure in zip(limits, found, strict=True)]
    return tuple(one for one in compared if one.limit is not None and one.found > one.limit)
