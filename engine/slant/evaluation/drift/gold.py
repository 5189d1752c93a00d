"""Quality against gold labels: of the reference, of ours, and the difference with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.bootstrap import RESAMPLES, SEED
from slant.evaluation.calibration import Calibration, calibrate
from slant.evaluation.compare import differences
from slant.evaluation.metrics import Labels, Matrix, accuracy, as_matrix, confusion, macro_f1, mae


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
    figures = (accuracy, mae, macro_f1)
    drawn = differences(gold, reference.argmax(1), ours.argmax(1), reference.shape[1], figures)
    of_accuracy, of_mae, of_f1 = (
        Interval(*map(float, line)) for line in zip(drawn.values, *drawn.percentiles(), strict=True)
    )
    return Gold(len(gold), _quality(gold, reference), _quality(gold, ours), of_accuracy, of_mae, of_f1, RESAMPLES, SEED)


def _quality(gold: Labels, probabilities: NDArray[np.float64]) -> Quality:
    label, confidence = probabilities.argmax(1), probabilities.max(1)
    counts = confusion(gold, label, probabilities.shape[1])
    calibration = calibrate(confidence, (label == gold).astype(np.float64))
    return Quality(float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts)), calibration, as_matrix(counts))
