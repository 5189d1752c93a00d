"""Drift: how far our answers are from the reference's, computed from two ``Scores`` of the same texts.

Per row, with p the reference's probabilities and q ours, both over the k labels:

    flip      the labels (the most probable ones) differ
    margin    the reference's largest probability minus its second
    delta     the maximum over the labels i of |q_i - p_i|
    kl        KL(p || q) = sum_i p_i ln(p_i / q_i), in nats (Kullback and Leibler 1951)
    expected  |sum_i i q_i - sum_i i p_i|, in classes
    gap       how far two labels moved apart at most: max_i (q_i - p_i) - min_i (q_i - p_i)

A row whose own margin under q exceeds its gap cannot be a flip; the stable margin of a certificate rests on that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.artifact import drift_record as record
from slant.artifact.drift_record import Drift
from slant.errors import SlantError
from slant.evaluation.assess import estimates
from slant.evaluation.bootstrap import RESAMPLES, SEED
from slant.evaluation.metrics import Floats, Labels, accuracy, as_matrix, calibrate, confusion, macro_f1, mae
from slant.scores import Scores
from slant.tables.labelled import NO_LABEL

LENGTH_EDGES = (128, 256, 512, 1024, 2048, 4096)  # the longest prompt of each length bucket but the last, in tokens
NOT_FINITE = "the answer holds NaN or infinity."


@dataclass(frozen=True, slots=True)
class RowDrift:
    """The drift of each compared row: arrays ``[m]``, p and q ``[m, k]``; ``index`` is the place among all rows.

    kl is computed from the logits, since a probability may underflow to 0; the rest from the probabilities.
    """

    index: Labels
    tokens: Labels
    p: Floats
    q: Floats
    margin: Floats
    delta: Floats
    kl: Floats
    expected: Floats
    gap: Floats
    flip: NDArray[np.bool_]

    @classmethod
    def of(cls, reference: Scores, ours: Scores) -> RowDrift:
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


def drift_between(reference: Scores, ours: Scores, gold: Labels | None = None) -> Drift:
    """The drift of ``ours`` from ``reference``, row for row of the same texts.

    gold: int64 ``[n]``, class indices with -1 for a row without a label.

    Raises ValueError if lengths or labels do not match, SlantError if no row was answered by both.
    """
    n, k = len(reference), len(reference.labels)
    if len(ours) != n or ours.labels != reference.labels:
        raise ValueError(f"{n} rows over {reference.labels} cannot be compared with {len(ours)} over {ours.labels}.")
    if gold is not None and (gold.shape != (n,) or gold.min(initial=0) < NO_LABEL or gold.max(initial=0) >= k):
        raise ValueError(f"gold labels must be {n} numbers from -1 to {k - 1}.")
    failures = tuple(
        record.Failure(row, a, b)
        for row, (a, b) in enumerate(zip(_errors(reference), _errors(ours), strict=True))
        if a or b
    )
    rows = RowDrift.of(reference, ours)
    if not len(rows.index):
        first = next((failure.ours or failure.reference for failure in failures), "there are no texts.")
        raise SlantError(f"no text was answered by both the reference and the model: {first}")
    truth = np.full(len(rows.index), NO_LABEL) if gold is None else gold[rows.index]
    buckets = np.searchsorted(LENGTH_EDGES, rows.tokens, side="left")
    lows, highs = (1, *(edge + 1 for edge in LENGTH_EDGES)), (*LENGTH_EDGES, None)
    overall = _slice(1, None, rows, truth, np.full(len(truth), True))
    slices = tuple(_slice(lows[b], highs[b], rows, truth, buckets == b) for b in np.unique(buckets))
    return Drift(reference.labels, n, failures, overall, slices)


def _finite(scores: Scores) -> NDArray[np.bool_]:
    finite = np.isfinite(scores.logits) & np.isfinite(scores.probabilities)
    return np.asarray(finite.all(axis=1) & scores.ok, dtype=np.bool_)


def _errors(scores: Scores) -> list[str | None]:
    return [None if good else error or NOT_FINITE for good, error in zip(_finite(scores), scores.error, strict=True)]


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _slice(low: int, high: int | None, rows: RowDrift, truth: Labels, here: NDArray[np.bool_]) -> record.Slice:
    p, q, flip, margin = rows.p[here], rows.q[here], rows.flip[here], rows.margin[here]
    label = q.argmax(1)
    figures = record.DriftFigures(
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
    labelled = here & (truth != NO_LABEL)
    gold = _against_gold(truth[labelled], rows.p[labelled], rows.q[labelled]) if labelled.any() else None
    return record.Slice(low, high, figures, gold)


def _tail(values: Floats) -> record.Tail:
    p99 = np.quantile(values, 0.99, method="inverted_cdf")
    return record.Tail(float(values.mean()), float(p99), float(values.max()))


def _against_gold(gold: Labels, p: Floats, q: Floats) -> record.GoldComparison:
    """Probabilities ``[n, k]`` of the reference and of ours against gold labels ``[n]`` of 0 to k - 1."""
    labels, k = [p.argmax(1), q.argmax(1)], p.shape[1]
    sides = []
    for probabilities, label in zip((p, q), labels, strict=True):
        counts = confusion(gold, label, k)
        found = float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts))
        calibration = calibrate(probabilities.max(1), (label == gold).astype(np.float64))
        sides.append(record.GoldMetrics(*found, calibration, as_matrix(counts)))
    differences = {}
    for name, estimate in estimates(gold, labels, k).items():
        if name != "quadratic_kappa":
            assert estimate is not None  # none of the others is 0 / 0
            # With a single gold label every resample is the sample, and the interval a point.
            low, high = (estimate.value if limit is None else limit for limit in (estimate.low, estimate.high))
            differences[name] = record.Difference(estimate.value, low, high)
    return record.GoldComparison(len(gold), sides[0], sides[1], **differences, resamples=RESAMPLES, seed=SEED)
