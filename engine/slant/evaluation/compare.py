"""Two models on the same rows: their difference in each metric, by the paired bootstrap, and McNemar's test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.assess import METRICS, checked, mean_estimates, of_confusion
from slant.evaluation.bootstrap import RESAMPLES, SEED, Estimate, Units, bootstrap
from slant.evaluation.calibration import brier, nll
from slant.evaluation.metrics import Floats, Labels


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
    """Compare two models' answers, each as ``assess`` takes them, to the same gold labels int64 ``[n]``.

    Each row or group is drawn with both its answers. Raises ValueError as ``assess`` does, and for different numbers
    of labels.
    """
    if classes is None:
        classes = max(checked(gold, answers)[2] for answers in (first, second))
    (p, one, k), (q, other, width) = (checked(gold, answers, classes, groups) for answers in (first, second))
    if k != width:
        raise ValueError(f"{k} labels cannot be compared with {width}.")
    scores: list[Estimate | None] = [None, None]
    if p is not None and q is not None:
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            change = np.stack([brier(gold, q) - brier(gold, p), nll(gold, q) - nll(gold, p)], 1)
        scores = mean_estimates(change, groups, resamples, seed)
    return Comparison(
        len(gold),
        None if groups is None else len(np.unique(groups)),
        **differences(gold, one, other, k, groups, resamples, seed),  # type: ignore[arg-type]
        brier=scores[0],
        nll=scores[1],
        mcnemar=mcnemar(one == gold, other == gold) if groups is None else None,
        resamples=resamples,
        seed=seed,
    )


def differences(
    gold: Labels,
    first: Labels,
    second: Labels,
    k: int,
    groups: NDArray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Estimate | None]:
    """The second labels' ``METRICS`` minus the first's, by name; each row or group is drawn with both its labels."""

    def change(sums: Floats) -> Floats:
        found = of_confusion(sums.reshape(*sums.shape[:-1], 2, k, k))
        return found[..., 1, :] - found[..., 0, :]

    units = Units.of_cells(np.stack([gold * k + first, gold * k + second], 1), k * k, groups)
    return dict(zip(METRICS, bootstrap(units, change, resamples, seed), strict=True))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """The exact test of two models' right rows, bool ``[n]`` each. McNemar 1947, Psychometrika 12 (2), exact form."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    n = b + c

    def term(i: int) -> float:
        return math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2))

    return McNemar(b, c, min(1.0, 2 * math.fsum(term(i) for i in range(min(b, c) + 1))))
