"""One model against gold labels: every figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Calibration, Matrix
from slant.evaluation.bootstrap import RESAMPLES, SEED, Column, Estimate, Units, bootstrap
from slant.evaluation.calibration import brier, calibrate, nll
from slant.evaluation.metrics import Labels, accuracy, as_matrix, confusion, f1, macro_f1, mae, quadratic_kappa

FIGURES: dict[str, Callable[[NDArray], NDArray[np.float64]]] = {
    "accuracy": accuracy,
    "mae": mae,
    "quadratic_kappa": quadratic_kappa,
    "macro_f1": macro_f1,
}
SUM_TOLERANCE = 0.01  # probabilities written with two or three decimals miss 1 by less


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One label: how many rows have it as gold and as prediction; a figure is None where it would be 0 / 0."""

    gold: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the answer ``label``, the most frequent gold label, would get on all rows; its kappa is 0."""

    label: int
    accuracy: float
    mae: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """How good the probabilities are, as given: ``off_one`` rows do not sum to 1 within 0.01, ``farthest`` the worst.

    ``calibration`` is of the chosen label's probability. ``nll`` is None where ``impossible`` rows give their gold
    label the probability 0. The expected calibration error has no interval: resamples are less calibrated than the
    sample, so that their percentiles lie too high.
    """

    calibration: Calibration
    brier: Estimate
    nll: Estimate | None
    impossible: int
    off_one: int
    farthest: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """``rows`` answers over k labels in ``groups`` (None: each row for itself) against their gold labels.

    ``quadratic_kappa`` is None where all rows have the same label, gold and predicted. ``confusion[i][j]`` counts rows
    of gold label i that got the label j. ``confidence`` is None for labels without probabilities.
    """

    rows: int
    groups: int | None
    accuracy: Estimate
    mae: Estimate
    quadratic_kappa: Estimate | None
    macro_f1: Estimate
    classes: tuple[ClassFigures, ...]
    confusion: Matrix
    baseline: Baseline
    confidence: Confidence | None
    resamples: int
    seed: int


def assess(
    gold: Labels,
    answers: NDArray,
    *,
    classes: int | None = None,
    groups: NDArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Assessment:
    """Judge answers by gold labels int64 ``[n]`` of 0 to k - 1.

    answers: probabilities ``[n, k]``, of which the largest is the label, or labels ``[n]`` of 0 to k - 1. classes: k,
    for labels; by default the largest label that occurs, plus 1. groups: ``[n]``, numbers or strings; rows of a group
    are drawn together.

    Raises ValueError for shapes that do not match, no rows, labels out of range, and probabilities not of 0 to 1.
    """
    probabilities, labels, k = checked(gold, answers, classes)
    if groups is not None and groups.shape != gold.shape:
        raise ValueError(f"{len(groups)} groups for {len(gold)} rows.")
    units = Units.of_cells((gold * k + labels)[:, None], k * k, groups)
    drawn = bootstrap(units, lambda sums: of_confusion(sums.reshape(*sums.shape[:-1], k, k)), resamples, seed)
    found = dict(zip(FIGURES, drawn.estimates(), strict=True))
    counts = confusion(gold, labels, k)
    return Assessment(
        len(gold),
        None if groups is None else len(units),
        **found,  # type: ignore[arg-type]
        classes=tuple(_by_class(counts)),
        confusion=as_matrix(counts),
        baseline=_baseline(gold, k),
        confidence=None if probabilities is None else _confidence(gold, probabilities, groups, resamples, seed),
        resamples=resamples,
        seed=seed,
    )


def checked(gold: Labels, answers: NDArray, classes: int | None = None) -> tuple[Column | None, Labels, int]:
    """Probabilities (None for labels), labels and k of ``assess``'s arguments; raises ValueError as it says."""
    n = len(gold)
    if not n or gold.shape != (n,) or len(answers) != n or answers.ndim not in (1, 2):
        raise ValueError(f"answers of shape {answers.shape} cannot be judged by gold labels of shape {gold.shape}.")
    probabilities = answers.astype(np.float64) if answers.ndim == 2 else None
    if probabilities is not None:
        if not ((probabilities >= 0) & (probabilities <= 1)).all():  # NaN neither
            raise ValueError("probabilities must be numbers from 0 to 1.")
        labels, k = probabilities.argmax(1), probabilities.shape[1]
    else:
        labels = answers
        k = int(max(gold.max(), labels.max())) + 1 if classes is None else classes
    if min(gold.min(), labels.min()) < 0 or max(gold.max(), labels.max()) >= k:
        raise ValueError(f"labels must be numbers from 0 to {k - 1}.")
    return probabilities, labels, k


def of_confusion(counts: NDArray) -> Column:
    """``FIGURES`` of counts ``[..., k, k]`` as ``[..., 4]``."""
    return np.stack([figure(counts) for figure in FIGURES.values()], -1)


def _by_class(counts: Labels) -> list[ClassFigures]:
    gold, predicted, hits = counts.sum(1).tolist(), counts.sum(0).tolist(), np.diagonal(counts).tolist()
    return [
        ClassFigures(g, p, h / p if p else None, h / g if g else None, one if g or p else None)
        for g, p, h, one in zip(gold, predicted, hits, f1(counts).tolist(), strict=True)
    ]


def _baseline(gold: Labels, k: int) -> Baseline:
    label = int(np.bincount(gold, minlength=k).argmax())
    counts = confusion(gold, np.full_like(gold, label), k)
    return Baseline(label, float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts)))


def _confidence(gold: Labels, probabilities: Column, groups: NDArray | None, resamples: int, seed: int) -> Confidence:
    scores = np.stack([brier(gold, probabilities), nll(gold, probabilities)], 1)
    impossible = int(np.isinf(scores[:, 1]).sum())
    found = mean_estimates(scores, groups, resamples, seed)
    off = abs(probabilities.sum(1) - 1)
    right = (probabilities.argmax(1) == gold).astype(np.float64)
    return Confidence(
        calibrate(probabilities.max(1), right),
        found[0],  # type: ignore[arg-type]
        found[1],
        impossible,
        int((off > SUM_TOLERANCE).sum()),
        float(off.max()),
    )


def mean_estimates(scores: Column, groups: NDArray | None, resamples: int, seed: int) -> list[Estimate | None]:
    """The means of scores ``[n, f]`` by row; None for one that is not finite."""
    known = np.where(np.isfinite(scores), scores, np.nan)
    units = Units.of_values(np.column_stack([known, np.ones(len(scores))]), groups)  # groups differ in size

    def means(sums: Column) -> Column:
        return sums[..., :-1] / sums[..., -1:]

    return bootstrap(units, means, resamples, seed).estimates()
