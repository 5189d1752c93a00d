"""Drift: how far our answers are from the reference's, as pure figures of two ``Scores`` of the same texts.

Per row, with p the reference's probabilities and q ours, both over the k labels:

    flip      the labels (the most probable ones) differ
    margin    the reference's largest probability minus its second
    delta     the maximum over the labels i of |q_i - p_i|
    kl        KL(p || q) = sum_i p_i ln(p_i / q_i), in nats (Kullback and Leibler 1951)
    expected  |sum_i i q_i - sum_i i p_i|, in classes
    gap       how much the distance of two labels changed at most: max_i (q_i - p_i) - min_i (q_i - p_i)

A row whose own margin under q exceeds its gap cannot be a flip: that is why the gap is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.errors import SlantError
from slant.evaluation.calibration import Calibration, calibrate
from slant.evaluation.drift.gold import Gold, judge
from slant.evaluation.metrics import NO_LABEL, Labels, Matrix, as_matrix, confusion
from slant.scores import Scores

EDGES = (128, 256, 512, 1024, 2048, 4096)  # the longest prompt of each length bucket but the last, in tokens
NOT_FINITE = "the answer holds NaN or infinity."

Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tail:
    """Mean, 99th percentile and maximum over rows.

    The percentile is a value that occurs: the smallest with at least 99 % of the rows at or below it (Hyndman and Fan
    1996, definition 1). Below 100 rows it is the maximum.
    """

    mean: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Column) -> Tail:
        p99 = np.quantile(values, 0.99, method="inverted_cdf")
        return cls(float(values.mean()), float(p99), float(values.max()))


@dataclass(frozen=True, slots=True)
class Figures:
    """What a group of rows says without gold labels.

    ``weighted_flip_rate`` is the margin of the flipped rows over the margin of all rows: a flip where the reference
    hesitated hardly counts. ``calibration`` holds our confidence against the probability that the reference gives to
    our label, so that its ECE is 0 for identical answers; ``confusion[i][j]`` counts rows that the reference labels i
    and we label j.
    """

    rows: int
    flips: int
    flip_rate: float
    weighted_flip_rate: float
    delta: Tail
    kl: Tail
    expected: Tail
    gap: Tail
    calibration: Calibration
    confusion: Matrix


@dataclass(frozen=True, slots=True)
class Group:
    """Rows whose prompts have ``low`` to ``high`` tokens (None: any number), ``gold`` where any has a gold label."""

    low: int
    high: int | None
    figures: Figures
    gold: Gold | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A row (index from 0) that could not be compared: the error of the reference, of ours, or of both."""

    row: int
    reference: str | None
    ours: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison of ``rows`` texts: those in ``failures`` are in no figure. ``buckets`` are those with any row."""

    labels: tuple[str, ...]
    rows: int
    failures: tuple[Failure, ...]
    overall: Group
    buckets: tuple[Group, ...]

    @property
    def lost(self) -> int:
        """Rows that the reference answered and we did not."""
        return sum(failure.reference is None for failure in self.failures)


@dataclass(frozen=True, slots=True)
class Rows:
    """Figures by row, of the compared rows only: ``index`` is their place among all rows; arrays ``[m]``, p and q
    ``[m, k]``. Probabilities as given; the divergence from the logits, since a probability may underflow to 0."""

    index: Labels
    tokens: Labels
    p: Column
    q: Column
    margin: Column
    delta: Column
    kl: Column
    expected: Column
    gap: Column
    flip: NDArray[np.bool_]

    @classmethod
    def of(cls, reference: Scores, ours: Scores) -> Rows:
        """Compare row by row; ``tokens`` are those of the reference's prompts."""
        index = np.flatnonzero(_finite(reference) & _finite(ours))
        p, q = (scores.probabilities[index].astype(np.float64) for scores in (reference, ours))
        log_p, log_q = (_log_softmax(scores.logits[index].astype(np.float64)) for scores in (reference, ours))
        ordered, change = np.sort(p), q - p
        return cls(
            index,
            reference.tokens[index],
            p,
            q,
            margin=ordered[:, -1] - ordered[:, -2],
            delta=abs(change).max(1),
            kl=np.maximum((np.exp(log_p) * (log_p - log_q)).sum(1), 0),  # rounding may leave it below 0
            expected=abs(change @ np.arange(p.shape[1])),
            gap=change.max(1) - change.min(1),
            flip=p.argmax(1) != q.argmax(1),
        )


def compare(reference: Scores, ours: Scores, gold: Labels | None = None) -> Drift:
    """The drift of ``ours`` from ``reference``, row for row of the same texts.

    gold: int64 ``[n]``, class indices with -1 for a row without a label.

    Raises ValueError if lengths or labels do not match, SlantError if no row was answered by both.
    """
    n, k = len(reference), len(reference.labels)
    if len(ours) != n or ours.labels != reference.labels:
        raise ValueError(f"{n} rows over {reference.labels} cannot be compared with {len(ours)} over {ours.labels}.")
    if gold is not None and (gold.shape != (n,) or gold.min(initial=0) < NO_LABEL or gold.max(initial=0) >= k):
        raise ValueError(f"gold labels must be {n} numbers from -1 to {k - 1}.")
    failures = tuple(_failures(reference, ours))
    rows = Rows.of(reference, ours)
    if not len(rows.index):
        first = next((failure.ours or failure.reference for failure in failures), "there are no texts.")
        raise SlantError(f"no text was answered by both the reference and the model: {first}")
    truth = np.full(n, NO_LABEL) if gold is None else gold
    buckets = np.searchsorted(EDGES, rows.tokens, side="left")
    lows, highs = (1, *(edge + 1 for edge in EDGES)), (*EDGES, None)
    return Drift(
        reference.labels,
        n,
        failures,
        _group(1, None, rows, truth, np.full(len(rows.index), True)),
        tuple(_group(lows[b], highs[b], rows, truth, buckets == b) for b in np.unique(buckets)),
    )


def _finite(scores: Scores) -> NDArray[np.bool_]:
    finite = np.isfinite(scores.logits) & np.isfinite(scores.probabilities)
    return np.asarray(finite.all(axis=1) & scores.ok, dtype=np.bool_)


def _failures(reference: Scores, ours: Scores) -> list[Failure]:
    sides = [
        [None if good else error or NOT_FINITE for good, error in zip(_finite(scores), scores.error, strict=True)]
        for scores in (reference, ours)
    ]
    return [Failure(row, a, b) for row, (a, b) in enumerate(zip(*sides, strict=True)) if a or b]


def _log_softmax(logits: Column) -> Column:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _group(low: int, high: int | None, rows: Rows, truth: Labels, here: NDArray[np.bool_]) -> Group:
    labelled = here & (truth[rows.index] != NO_LABEL)
    gold = judge(truth[rows.index][labelled], rows.p[labelled], rows.q[labelled]) if labelled.any() else None
    return Group(low, high, _figures(rows, here), gold)


def _figures(rows: Rows, here: NDArray[np.bool_]) -> Figures:
    p, q, flip, margin = rows.p[here], rows.q[here], rows.flip[here], rows.margin[here]
    label = q.argmax(1)
    return Figures(
        rows=len(p),
        flips=int(flip.sum()),
        flip_rate=float(flip.mean()),
        weighted_flip_rate=float(margin[flip].sum() / margin.sum()) if margin.any() else 0.0,
        delta=Tail.of(rows.delta[here]),
        kl=Tail.of(rows.kl[here]),
        expected=Tail.of(rows.expected[here]),
        gap=Tail.of(rows.gap[here]),
        calibration=calibrate(q.max(1), p[np.arange(len(p)), label]),
        confusion=as_matrix(confusion(p.argmax(1), label, p.shape[1])),
    )
