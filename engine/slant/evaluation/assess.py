"""One model against gold labels: every metric with its 95 % confidence interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Calibration, Matrix
from slant.evaluation.bootstrap import RESAMPLES, SEED, Estimate, Units, bootstrap
from slant.evaluation.calibration import brier, calibrate, nll
from slant.evaluation.metrics import Floats, Labels, accuracy, as_matrix, confusion, f1, macro_f1, mae, quadratic_kappa

METRICS: dict[str, Callable[[NDArray], Floats]] = {
    "accuracy": accuracy,
    "mae": mae,
    "quadratic_kappa": quadratic_kappa,
    "macro_f1": macro_f1,
}
SUM_TOLERANCE = 0.01  # probabilities written with two or three decimals miss 1 by less


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One label: how many rows have it as gold and as prediction; a metric is None where it would be 0 / 0."""

    gold: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """The majority-class baseline: ``label``, the most frequent gold label, given to every row; its kappa is 0."""

    label: int
    accuracy: float
    mae: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """How good the probabilities are, unscaled: ``off_one`` rows miss the sum 1 by over 0.01, ``farthest`` at most.

    ``calibration`` is of the chosen label's probability. ``nll`` is None where ``impossible`` rows give their gold
    label the probability 0. The expected calibration error has no interval: resamples are less calibrated than the
    sample, so that their percentiles are biased upwards.
    """

    calibration: Calibration
    brier: Estimate
    nll: Estimate | None
    impossible: int
    off_one: int
    farthest: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """Metrics of ``rows`` answers over k labels in ``groups`` (None: rows are independent) against gold labels.

    ``quadratic_kappa`` is None where all rows have the same label, gold and predicted. ``confusion[i][j]`` counts rows
    of gold label i that got the label j. ``confidence`` is None for labels without probabilities.
    """

    rows: int
    groups: int | None
    accuracy: Estimate
    mae: Estimate
    quadratic_kappa: Estimate | None
    macro_f1: Estimate
    classes: tuple[ClassMetrics, ...]
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
    """Evaluate answers by gold labels int64 ``[n]`` of 0 to k - 1.

    answers: probabilities ``[n, k]``, of which the largest is the label, or labels ``[n]`` of 0 to k - 1. classes: k,
    for labels; by default the largest label that occurs, plus 1. groups: ``[n]``, numbers or strings; rows of a group
    are resampled together.

    Raises ValueError for shapes that do not match, no rows, labels out of range, and probabilities not of 0 to 1.
    """
    probabilities, labels, k = checked(gold, answers, classes, groups)
    units = Units.of_cells((gold * k + labels)[:, None], k * k, groups)
    found = bootstrap(units, lambda sums: of_confusion(sums.reshape(*sums.shape[:-1], k, k)), resamples, seed)
    counts = confusion(gold, labels, k)
    return Assessment(
        len(gold),
        None if groups is None else len(units),
        **dict(zip(METRICS, found, strict=True)),  # type: ignore[arg-type]
        classes=tuple(_by_class(counts)),
        confusion=as_matrix(counts),
        baseline=_baseline(gold, k),
        confidence=None if probabilities is None else _confidence(gold, probabilities, groups, resamples, seed),
        resamples=resamples,
        seed=seed,
    )


def checked(
    gold: Labels, answers: NDArray, classes: int | None = None, groups: NDArray | None = None
) -> tuple[Floats | None, Labels, int]:
    """Probabilities (None for labels), labels and k of ``assess``'s arguments; raises ValueError as it says."""
    n = len(gold)
    if not n or gold.shape != (n,) or len(answers) != n or answers.ndim not in (1, 2):
        raise ValueError(f"answers of shape {answers.shape} do not match gold labels of shape {gold.shape}.")
    if groups is not None and groups.shape != gold.shape:
        raise ValueError(f"{len(groups)} groups for {n} rows.")
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


def of_confusion(counts: NDArray) -> Floats:
    """``METRICS`` of counts ``[..., k, k]`` as ``[..., 4]``."""
    return np.stack([metric(counts) for metric in METRICS.values()], -1)


def mean_estimates(scores: Floats, groups: NDArray | None, resamples: int, seed: int) -> list[Estimate | None]:
    """The means of scores ``[n, f]`` by row; None for one that is not finite."""
    known = np.where(np.isfinite(scores), scores, np.nan)
    units = Units.of_values(np.column_stack([known, np.ones(len(scores))]), groups)  # groups differ in size
    return bootstrap(units, lambda sums: sums[..., :-1] / sums[..., -1:], resamples, seed)


def _by_class(counts: Labels) -> list[ClassMetrics]:
    gold, predicted, hits = counts.sum(1).tolist(), counts.sum(0).tolist(), np.diagonal(counts).tolist()
    return [
        ClassMetrics(g, p, h / p if p else None, h / g if g else None, one if g or p else None)
        for g, p, h, one in zip(gold, predicted, hits, f1(counts).tolist(), strict=True)
    ]


def _baseline(gold: Labels, k: int) -> Baseline:
    label = int(np.bincount(gold, minlength=k).argmax())
    counts = confusion(gold, np.full_like(gold, label), k)
    return Baseline(label, float(accuracy(counts)), float(mae(counts)), float(macro_f1(counts)))


def _confidence(gold: Labels, probabilities: Floats, groups: NDArray | None, resamples: int, seed: int) -> Confidence:
    scores = np.stack([brier(gold, probabilities), nll(gold, probabilities)], 1)
    mean_brier, mean_nll = mean_estimates(scores, groups, resamples, seed)
    assert mean_brier is not None  # it is at most 2 in each row
    off = abs(probabilities.sum(1) - 1)
    return Confidence(
        calibrate(probabilities.max(1), (probabilities.argmax(1) == gold).astype(np.float64)),
        mean_brier,
        mean_nll,
        impossible=int(np.isinf(scores[:, 1]).sum()),
        off_one=int((off > SUM_TOLERANCE).sum()),
        farthest=float(off.max()),
    )
