"""Metrics of a confusion matrix, calibration, and proper scores of probabilities.

Those of a confusion matrix take counts ``[..., k, k]``, rows gold and columns predicted, many at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Bin, Calibration, Matrix

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

BIN_EDGES = np.arange(11) / 10


def confusion(rows: Labels, columns: Labels, k: int) -> Labels:
    """``[k, k]``: how many rows have label i in ``rows`` and label j in ``columns``."""
    return np.bincount(rows * k + columns, minlength=k * k).reshape(k, k)


def as_matrix(counts: Labels) -> Matrix:
    return tuple(map(tuple, counts.tolist()))


def accuracy(counts: NDArray) -> Floats:
    """The share of the diagonal."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def mae(counts: NDArray) -> Floats:
    """The mean of |i - j|: the labels are ordered and equally spaced."""
    return (counts * abs(_steps(counts))).sum((-2, -1)) / counts.sum((-2, -1))


def _steps(counts: NDArray) -> Labels:
    labels = np.arange(counts.shape[-1])
    return labels[:, None] - labels


def quadratic_kappa(counts: NDArray) -> Floats:
    """Cohen's kappa with quadratic weights: 1 - sum (i - j)^2 n_ij / sum (i - j)^2 n_i. n_.j / n.

    1 is perfect, 0 what labels drawn at random with the same frequencies get. NaN where all rows have one label, gold
    and predicted, so that no disagreement is expected. Cohen 1968, "Weighted kappa", Psychological Bulletin 70 (4).
    """
    weights = _steps(counts) ** 2
    expected = counts.sum(-1)[..., :, None] * counts.sum(-2)[..., None, :] / counts.sum((-2, -1))[..., None, None]
    with np.errstate(invalid="ignore"):
        return 1 - (counts * weights).sum((-2, -1)) / (expected * weights).sum((-2, -1))


def f1(counts: NDArray) -> Floats:
    """``[..., k]``: F1 = 2 TP / (2 TP + FP + FN) of each label, NaN for one that is neither gold nor predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    seen = counts.sum(-1) + counts.sum(-2)
    return np.where(seen > 0, 2 * hits / np.maximum(seen, 1), np.nan)


def macro_f1(counts: NDArray) -> Floats:
    """The unweighted mean of the labels' F1.

    Over the labels that are gold or predicted somewhere, as ``sklearn.metrics.f1_score(average="macro")`` has it.
    """
    each = f1(counts)
    return np.nansum(each, -1) / (~np.isnan(each)).sum(-1)


def calibrate(confidence: Floats, outcome: Floats) -> Calibration:
    """Calibration of ``confidence`` ``[n]``, the probability of the label a model chose, against ``outcome`` ``[n]``.

    The outcome is 1 where the label is right and 0 where it is wrong, or a probability of its being right.

        ECE = sum over bins b of n_b / n * |mean outcome in b - mean confidence in b|

    over 10 bins of equal width, ``((b - 1) / 10, b / 10]``. Guo, Pleiss, Sun and Weinberger 2017, "On
    calibration of modern neural networks" (arXiv 1706.04599), equation 3; there 15 bins.
    """
    place = np.searchsorted(BIN_EDGES[1:-1], confidence, side="left")
    bins = []
    for b in np.unique(place):
        here = place == b
        means = float(confidence[here].mean()), float(outcome[here].mean())
        bins.append(Bin(float(BIN_EDGES[b]), float(BIN_EDGES[b + 1]), int(here.sum()), *means))
    ece = sum(b.rows * abs(b.outcome - b.confidence) for b in bins) / max(len(confidence), 1)
    return Calibration(ece, tuple(bins))


def brier(gold: Labels, probabilities: Floats) -> Floats:
    """``[n]``: sum over labels j of (p_j - [j is gold])^2, from 0 (certain and right) to 2 (certain and wrong).

    Brier 1950, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1).
    """
    return ((probabilities - np.eye(probabilities.shape[1])[gold]) ** 2).sum(1)


def nll(gold: Labels, probabilities: Floats) -> Floats:
    """``[n]``: minus the logarithm of the gold label's probability, in nats; infinite where that is 0."""
    with np.errstate(divide="ignore"):
        return -np.log(probabilities[np.arange(len(gold)), gold])
