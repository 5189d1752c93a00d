"""Quality against gold labels: of the reference, of ours, and the difference with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.drift.calibration import Calibration, calibrate

RESAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95

Matrix = tuple[tuple[int, ...], ...]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quality:
    """One model against the gold labels.

    ``accuracy`` is the share of rows with the gold label, ``mae`` the mean distance |label - gold| in classes,
    ``macro_f1`` as in ``macro_f1()``; ``confusion[i][j]`` counts rows of gold label i that the model labels j.
    """

    accuracy: float
    mae: float
    macro_f1: float
    calibration: Calibration
    confusion: Matrix


@dataclass(frozen=True, slots=True)
class Interval:
    """Ours minus the reference's, and the 95 % interval of that difference."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gold:
    """Both models on the ``rows`` that have a gold label, and their differences by the bootstrap."""

    rows: int
    reference: Quality
    ours: Quality
    accuracy: Interval
    mae: Interval
    macro_f1: Interval
    resamples: int
    seed: int


def judge(gold: Labels, reference: NDArray[np.float64], ours: NDArray[np.float64]) -> Gold:
    """Compare probabilities ``[n, k]`` of both models with gold labels ``[n]`` of 0 to k - 1."""
    k = reference.shape[1]
    differences = bootstrap(gold, reference.argmax(1), ours.argmax(1), k)
    return Gold(len(gold), _quality(gold, reference), _quality(gold, ours), *differences, RESAMPLES, SEED)


def _quality(gold: Labels, probabilities: NDArray[np.float64]) -> Quality:
    label, confidence = probabilities.argmax(1), probabilities.max(1)
    counts = confusion(gold, label, probabilities.shape[1])
    calibration = calibrate(confidence, (label == gold).astype(np.float64))
    return Quality(float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts)), calibration, as_matrix(counts))


def confusion(rows: Labels, columns: Labels, k: int) -> Labels:
    """``[k, k]``: how many rows have label i in ``rows`` and label j in ``columns``."""
    return np.bincount(rows * k + columns, minlength=k * k).reshape(k, k)


def as_matrix(counts: Labels) -> Matrix:
    return tuple(tuple(int(count) for count in row) for row in counts)


def accuracy(counts: NDArray) -> NDArray[np.float64]:
    """The share of the diagonal, of confusion counts ``[..., k, k]``."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def mae(counts: NDArray) -> NDArray[np.float64]:
    """The mean of |i - j|, of confusion counts ``[..., k, k]``: the labels are ordered and equally spaced."""
    labels = np.arange(counts.shape[-1])
    return (counts * abs(labels[:, None] - labels)).sum((-2, -1)) / counts.sum((-2, -1))


def macro_f1(counts: NDArray) -> NDArray[np.float64]:
    """The unweighted mean over labels of F1 = 2 TP / (2 TP + FP + FN), of confusion counts ``[..., k, k]``.

    Over the labels that are gold or predicted somewhere, as ``sklearn.metrics.f1_score(average="macro")`` has it.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    seen = counts.sum(-1) + counts.sum(-2)
    return (2 * hits / np.maximum(seen, 1)).sum(-1) / (seen > 0).sum(-1)


def bootstrap(
    gold: Labels, reference: Labels, ours: Labels, k: int, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[Interval, Interval, Interval]:
    """Paired percentile bootstrap of ours minus the reference's accuracy, mae and macro-F1.

    Rows are drawn with replacement, each with both its answers, ``resamples`` times; the interval runs from the 2.5th
    to the 97.5th percentile. Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. The figures
    depend on how often each triple (gold, reference, ours) occurs and on nothing else, and those counts in a resample
    are multinomial: they are drawn directly, at a cost that does not grow with the rows.
    """
    triples, counts = np.unique((gold * k + reference) * k + ours, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    drawn = np.vstack([counts, drawn]).astype(np.float64)  # the first line is the sample itself
    g, r, o = triples // k**2, triples // k % k, triples % k
    theirs, mine = (drawn @ np.eye(k * k)[g * k + label] for label in (r, o))
    intervals = []
    for figure in (accuracy, mae, macro_f1):
        difference = figure(mine.reshape(-1, k, k)) - figure(theirs.reshape(-1, k, k))
        low, high = np.quantile(difference[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        intervals.append(Interval(float(difference[0]), float(low), float(high)))
    return intervals[0], intervals[1], intervals[2]
