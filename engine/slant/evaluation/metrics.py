"""Metrics of a confusion matrix. Each takes counts ``[..., k, k]``, rows gold and columns predicted, many at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Matrix

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion(rows: Labels, columns: Labels, k: int) -> Labels:
    """``[k, k]``: how many rows have label i in ``rows`` and label j in ``columns``."""
    return np.bincount(rows * k + columns, minlength=k * k).reshape(k, k)


def as_matrix(counts: Labels) -> Matrix:
    return tuple(tuple(int(count) for count in row) for row in counts)


def accuracy(counts: NDArray) -> Floats:
    """The share of the diagonal."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def mae(counts: NDArray) -> Floats:
    """The mean of |i - j|: the labels are ordered and equally spaced."""
    return (counts * abs(_steps(counts))).sum((-2, -1)) / counts.sum((-2, -1))


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


def _steps(counts: NDArray) -> Labels:
    labels = np.arange(counts.shape[-1])
    return labels[:, None] - labels
