"""How well a system answers for texts that it was not fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from baselines.data import Labelled
from baselines.systems import Checkpoint, Progress, System, facts, fitted
from slant.evaluation.assess import Estimate, assess
from slant.evaluation.compare import compare
from slant.evaluation.metrics import Labels

Row = dict[str, Any]


def answer(
    system: System, train: Labelled, test: Labelled, cache: Path, progress: Progress = lambda done, total: None
) -> tuple[Path, Labels]:
    """The fitted system's folder and its labels int64 ``[n]`` for the test texts; raises SlantError."""
    folder = fitted(system, train, cache, progress)
    return folder, system.load(folder, test.names, cache)(test.texts).argmax(-1)


def judge(system: System, train: Labelled, test: Labelled, cache: Path) -> Row:
    """A row of figures, each with its 95 % interval ``[value, low, high]``; by groups where they are known."""
    folder, labels = answer(system, train, test, cache)
    return described(system, train, test) | facts(folder) | figures(test, labels)


def described(system: System, train: Labelled, test: Labelled) -> Row:
    """What was asked: ``data`` is the same for the same test texts only."""
    return {
        "system": system.name,
        "fitted": not isinstance(system, Checkpoint),
        "note": system.note,
        "costs": system.costs,
        "data": test.digest,
        "training_texts": len(train.texts),
        "texts": len(test.texts),
        "groups": None if test.groups is None else len(np.unique(test.groups)),
        "labels": list(test.names),
    }


def figures(test: Labelled, labels: Labels) -> Row:
    """Accuracy, macro-F1 and, where labels are ordered, the mean absolute error in labels."""
    found = assess(test.labels, labels, classes=len(test.names), groups=test.groups)
    row = {"accuracy": interval(found.accuracy), "macro_f1": interval(found.macro_f1)}
    return row | {"mae": interval(found.mae) if test.ordered else None}


def difference(test: Labelled, first: Labels, second: Labels) -> list[float | None]:
    """The second labels' accuracy minus the first's, by the paired bootstrap."""
    return interval(compare(test.labels, first, second, classes=len(test.names), groups=test.groups).accuracy)


def interval(estimate: Estimate) -> list[float | None]:
    return [round(value, 6) if value is not None else None for value in (estimate.value, estimate.low, estimate.high)]
