"""Answers against gold labels: each metric with its 95 % confidence interval; for two models, of their difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Calibration, Matrix
from slant.evaluation.bootstrap import RESAMPLES, SEED, Estimate, Units, bootstrap
from slant.evaluation.metrics import (
    Floats,
    Labels,
    accuracy,
    as_matrix,
    brier,
    calibrate,
    confusion,
    f1,
    macro_f1,
    mae,
    nll,
    quadratic_kappa,
)

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


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows that only the first and only the second model has right, and the exact two-sided p-value of their balance.

    Under the hypothesis that both are equally accurate, the smaller count is binomial with n = their sum and 1/2; the
    p-value is twice its lower tail, at most 1. It takes rows as independent.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second model's metrics minus the first's on the same ``rows``, by the paired bootstrap.

    A positive difference is better in accuracy, kappa and macro-F1 and worse in the others. Those of probabilities are
    None unless both models have them; ``mcnemar`` is None with ``groups``, whose rows are not independent.
    """

    rows: int
    groups: int | None
    accuracy: Estimate
    mae: Estimate
    quadratic_kappa: Estimate | None
    macro_f1: Estimate
    brier: Estimate | None
    nll: Estimate | None
    mcnemar: McNemar | None
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
    probabilities, labels, k = _checked(gold, answers, classes, groups)
    confidence = None
    if probabilities is not None:
        losses, off = _losses(gold, probabilities), abs(probabilities.sum(1) - 1)
        mean_brier, mean_nll = _means(losses, groups, resamples, seed)
        assert mean_brier is not None  # it is at most 2 in each row
        confidence = Confidence(
            calibrate(probabilities.max(1), (labels == gold).astype(np.float64)),
            mean_brier,
            mean_nll,
            impossible=int(np.isinf(losses[:, 1]).sum()),
            off_one=int((off > SUM_TOLERANCE).sum()),
            farthest=float(off.max()),
        )
    counts = confusion(gold, labels, k)
    major = int(np.bincount(gold, minlength=k).argmax())
    baseline = confusion(gold, np.full_like(gold, major), k)
    totals = counts.sum(1).tolist(), counts.sum(0).tolist(), np.diagonal(counts).tolist(), f1(counts).tolist()
    return Assessment(
        len(gold),
        None if groups is None else len(np.unique(groups)),
        **estimates(gold, [labels], k, groups, resamples, seed),  # type: ignore[arg-type]
        classes=tuple(
            ClassMetrics(g, p, h / p if p else None, h / g if g else None, score if g or p else None)
            for g, p, h, score in zip(*totals, strict=True)
        ),
        confusion=as_matrix(counts),
        baseline=Baseline(major, float(accuracy(baseline)), float(mae(baseline)), float(macro_f1(baseline))),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def compare(
    gold: Labels,
    first: NDArray,
    second: NDArray,
    *,
    classes: int | None = None,
    groups: NDArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two models' answers, arguments and errors as of ``assess``; each row or group is drawn with both.

    Raises ValueError also for different numbers of labels.
    """
    if classes is None:
        classes = max(_checked(gold, answers)[2] for answers in (first, second))
    (p, one, k), (q, other, width) = (_checked(gold, answers, classes, groups) for answers in (first, second))
    if k != width:
        raise ValueError(f"{k} labels cannot be compared with {width}.")
    losses: list[Estimate | None] = [None, None]
    if p is not None and q is not None:
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            losses = _means(_losses(gold, q) - _losses(gold, p), groups, resamples, seed)
    return Comparison(
        len(gold),
        None if groups is None else len(np.unique(groups)),
        **estimates(gold, [one, other], k, groups, resamples, seed),  # type: ignore[arg-type]
        brier=losses[0],
        nll=losses[1],
        mcnemar=mcnemar(one == gold, other == gold) if groups is None else None,
        resamples=resamples,
        seed=seed,
    )


def estimates(
    gold: Labels,
    sides: Sequence[Labels],
    k: int,
    groups: NDArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Estimate | None]:
    """``METRICS`` by name of one side's labels ``[n]``, or the second side's minus the first's, drawn together."""

    def metrics(sums: Floats) -> Floats:
        found = of_confusion(sums.reshape(*sums.shape[:-1], len(sides), k, k))
        return found[..., 0, :] if len(sides) == 1 else found[..., 1, :] - found[..., 0, :]

    units = Units.of_cells(np.stack([gold * k + labels for labels in sides], 1), k * k, groups)
    return dict(zip(METRICS, bootstrap(units, metrics, resamples, seed), strict=True))


def of_confusion(counts: NDArray) -> Floats:
    """``METRICS`` of counts ``[..., k, k]`` as ``[..., 4]``."""
    return np.stack([metric(counts) for metric in METRICS.values()], -1)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """The exact test of two models' right rows, bool ``[n]`` each. McNemar 1947, Psychometrika 12 (2), exact form."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    n = b + c

    def term(i: int) -> float:
        return math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2))

    return McNemar(b, c, min(1.0, 2 * math.fsum(term(i) for i in range(min(b, c) + 1))))


def _checked(
    gold: Labels, answers: NDArray, classes: int | None = None, groups: NDArray | None = None
) -> tuple[Floats | None, Labels, int]:
    """Probabilities (None for labels), labels and k of ``assess``'s arguments."""
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


def _losses(gold: Labels, probabilities: Floats) -> Floats:
    return np.stack([brier(gold, probabilities), nll(gold, probabilities)], 1)


def _means(losses: Floats, groups: NDArray | None, resamples: int, seed: int) -> list[Estimate | None]:
    """By row; None for one that is not finite."""
    known = np.where(np.isfinite(losses), losses, np.nan)
    units = Units.of_values(np.column_stack([known, np.ones(len(losses))]), groups)  # groups differ in size
    return bootstrap(units, lambda sums: sums[..., :-1] / sums[..., -1:], resamples, seed)
