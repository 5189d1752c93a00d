"""What a certificate stores of a measured drift: plain frozen records, read by ``slant.validation``.

``slant.evaluation`` computes them; they stand here so that an artifact is read without importing any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=0, le=2**53)]  # rates are computed of them, in floats
Share = Annotated[float, Field(ge=0, le=1)]
Matrix = tuple[tuple[Count, ...], ...]


@dataclass(frozen=True, slots=True)
class Tail:
    """Mean, 99th percentile and maximum over rows.

    The percentile is a value that occurs: the smallest with at least 99 % of the rows at or below it (Hyndman and Fan
    1996, definition 1). Below 100 rows it is the maximum.
    """

    mean: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram: the ``rows`` with a confidence in ``(low, high]``, and their means."""

    low: float
    high: float
    rows: int
    confidence: float
    outcome: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The expected calibration error (ECE), and the bins that hold any row."""

    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class DriftFigures:
    """How far our answers are from the reference's, as defined in ``slant.evaluation.drift.figures``.

    ``weighted_flip_rate`` is the sum of the reference's margins over the flipped rows, divided by that over all rows: a
    flip where the reference was unsure hardly counts. ``calibration`` holds our confidence against the probability that
    the reference gives to our label, so that its ECE is 0 for identical answers. ``confusion[i][j]`` counts rows that
    the reference labels i and we label j.
    """

    rows: Annotated[Count, Field(ge=1)]
    flips: Count
    flip_rate: Share
    weighted_flip_rate: Share
    delta: Tail
    kl: Tail
    expected: Tail
    gap: Tail
    calibration: Calibration
    confusion: Matrix


@dataclass(frozen=True, slots=True)
class GoldMetrics:
    """One model against the gold labels, by ``slant.evaluation.metrics``; ``confusion`` has gold labels as rows."""

    accuracy: float
    mae: float
    macro_f1: float
    calibration: Calibration
    confusion: Matrix


@dataclass(frozen=True, slots=True)
class Difference:
    """Our metric minus the reference's, and its 95 % confidence interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GoldComparison:
    """Both models on the ``rows`` with a gold label, and the differences by the paired bootstrap."""

    rows: int
    reference: GoldMetrics
    ours: GoldMetrics
    accuracy: Difference
    mae: Difference
    macro_f1: Difference
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows whose prompts have ``low`` to ``high`` tokens (None: any number); ``gold`` is None without labels."""

    low: Count
    high: Count | None
    figures: DriftFigures
    gold: GoldComparison | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A row (index from 0) that could not be compared: the error of the reference, of ours, or of both."""

    row: Count
    reference: str | None
    ours: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison of ``rows`` texts; those in ``failures`` are in no figure. ``buckets`` are the non-empty ones."""

    labels: tuple[str, ...]
    rows: Count
    failures: tuple[Failure, ...]
    overall: Slice
    buckets: tuple[Slice, ...]

    @property
    def lost(self) -> int:
        """Rows that the reference answered and we did not."""
        return sum(failure.reference is None for failure in self.failures)
