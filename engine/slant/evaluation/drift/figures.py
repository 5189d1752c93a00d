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

from slant.artifact.drift_record import (
    Difference,
    Drift,
    DriftFigures,
    Failure,
    GoldComparison,
    GoldMetrics,
    Slice,
    Tail,
)
from slant.errors import SlantError
from slant.evaluation.bootstrap import RESAMPLES, SEED
from slant.evaluation.calibration import calibrate
from slant.evaluation.compare import differences
from slant.evaluation.metrics import NO_LABEL, Labels, accuracy, as_matrix, confusion, macro_f1, mae
from slant.scores import Scores

EDGES = (128, 256, 512, 1024, 2048, 4096)  # the longest prompt of each length bucket but the last, in tokens
NOT_FINITE = "the answer holds NaN or infinity."

Column = NDArray[np.float64]


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
        _slice(1, None, rows, truth, np.full(len(rows.index), True)),
        tuple(_slice(lows[b], highs[b], rows, truth, buckets == b) for b in np.unique(buckets)),
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


def _slice(low: int, high: int | None, rows: Rows, truth: Labels, here: NDArray[np.bool_]) -> Slice:
    labelled = here & (truth[rows.index] != NO_LABEL)
    gold = _against_gold(truth[rows.index][labelled], rows.p[labelled], rows.q[labelled]) if labelled.any() else None
    return Slice(low, high, _figures(rows, here), gold)


def _figures(rows: Rows, here: NDArray[np.bool_]) -> DriftFigures:
    p, q, flip, margin = rows.p[here], rows.q[here], rows.flip[here], rows.margin[here]
    label = q.argmax(1)
    return DriftFigures(
        rows=len(p),
        flips=int(flip.sum()),
        flip_rate=float(flip.mean()),
        weighted_flip_rate=float(margin[flip].sum() / margin.sum()) if margin.any() else 0.0,
        delta=_tail(rows.delta[here]),
        kl=_tail(rows.kl[here]),
        expected=_tail(rows.expected[here]),
        gap=_tail(rows.gap[here]),
        calibration=calibrate(q.max(1), p[np.arange(len(p)), label]),
        confusion=as_matrix(confusion(p.argmax(1), label, p.shape[1])),
    )


def _tail(values: Column) -> Tail:
    p99 = np.quantile(values, 0.99, method="inverted_cdf")
    return Tail(float(values.mean()), float(p99), float(values.max()))


def _against_gold(gold: Labels, reference: Column, ours: Column) -> GoldComparison:
    """Probabilities ``[n, k]`` of both models against gold labels ``[n]`` of 0 to k - 1."""
    metrics = (accuracy, mae, macro_f1)
    drawn = differences(gold, reference.argmax(1), ours.argmax(1), reference.shape[1], metrics)
    changes = [Difference(*map(float, line)) for line in zip(drawn.values, *drawn.percentiles(), strict=True)]
    return GoldComparison(
        len(gold),
        _metrics(gold, reference),
        _metrics(gold, ours),
        **dict(zip(("accuracy", "mae", "macro_f1"), changes, strict=True)),
        resamples=RESAMPLES,
        seed=SEED,
    )


def _metrics(gold: Labels, probabilities: Column) -> GoldMetrics:
    label, confidence = probabilities.argmax(1), probabilities.max(1)
    counts = confusion(gold, label, probabilities.shape[1])
    calibration = calibrate(confidence, (label == gold).astype(np.float64))
    return GoldMetrics(
        float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts)), calibration, as_matrix(counts)
    )
