"""Calibration (reliability diagram and expected calibration error) and proper scores (Brier, NLL) of probabilities."""

from __future__ import annotations

import numpy as np

from slant.artifact.drift_record import Bin, Calibration
from slant.evaluation.metrics import Floats, Labels

BINS = 10
BIN_EDGES = np.arange(BINS + 1) / BINS


def calibrate(confidence: Floats, outcome: Floats) -> Calibration:
    """Calibration of ``confidence`` ``[n]``, the probability of the label a model chose, against ``outcome`` ``[n]``.

    The outcome is 1 where the label is right and 0 where it is wrong, or a probability of its being right.

        ECE = sum over bins b of n_b / n * |mean outcome in b - mean confidence in b|

    over ``BINS`` = 10 bins of equal width, ``((b - 1) / 10, b / 10]``. Guo, Pleiss, Sun and Weinberger 2017, "On
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
