"""One model or two against the gold labels of a table: which rows can be evaluated, and their metrics.

A row is evaluated if it could be read, has a gold label, and has an answer of every model. Rows without an answer are
reported, with the accuracy if each counted as wrong, and are in no other metric: any label would be arbitrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slant.errors import SlantError
from slant.evaluation.assess import Assessment, Comparison, assess, compare
from slant.evaluation.bootstrap import RESAMPLES, SEED
from slant.evaluation.metrics import Labels
from slant.evaluation.predictions import Predictions
from slant.tables.labelled import NO_LABEL, spelled


@dataclass(frozen=True, slots=True)
class RowError:
    """A row, counted from 0, and why it has no answer or could not be read."""

    row: int
    error: str


@dataclass(frozen=True, slots=True)
class Side:
    """A model by its name: the labelled rows it did not answer, and its metrics on the evaluated rows.

    ``accuracy_of_all`` is its share of right answers among all labelled rows, those without an answer counted wrong.
    """

    name: str
    failures: tuple[RowError, ...]
    contradicted: int
    accuracy_of_all: float
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``rows`` of a table, the ``labelled`` ones among them, and of these the ``judged`` ones, which were evaluated.

    ``unreadable`` rows count as not labelled. ``ungrouped`` rows have no group and are a group each. ``comparison`` is
    the second side against the first.
    """

    table: str
    labels: tuple[str, ...]
    rows: int
    labelled: int
    judged: int
    unreadable: tuple[RowError, ...]
    group_column: str | None
    ungrouped: int
    sides: tuple[Side, ...]
    comparison: Comparison | None


def evaluate(
    table: str,
    labels: Sequence[str],
    gold: Labels,
    models: Sequence[Predictions],
    *,
    errors: Sequence[str | None] | None = None,
    groups: Sequence[object] | None = None,
    group_column: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Evaluation:
    """Evaluate one model, or two and their difference, on the rows of a table.

    labels: the k names. gold: int64 ``[n]``, -1 for a row without a label. errors: why a row could not be read. groups:
    a value for each row; where it is missing, the row is a group of its own.

    Raises SlantError if no row can be evaluated, ValueError for more than two models.
    """
    if len(models) not in (1, 2):
        raise ValueError(f"one model or two can be evaluated, not {len(models)}.")
    errors = errors or [None] * len(gold)
    unreadable = np.array([error is not None for error in errors])
    labelled = (gold != NO_LABEL) & ~unreadable
    if not labelled.any():
        raise SlantError(f"{table} has no row with a gold label ({len(gold):,} rows): there is nothing to evaluate.")
    reasons = [one.errors or (None,) * len(gold) for one in models]
    answered = [np.array([reason is None for reason in side]) & labelled for side in reasons]
    judged = np.flatnonzero(np.logical_and.reduce(answered))
    if not len(judged):
        first = next((e for side in reasons for e, here in zip(side, labelled, strict=True) if e and here), "")
        raise SlantError(f"no labelled row of {table} has an answer{' of both models' * (len(models) > 1)}: {first}")
    truth, answers = gold[judged], [one.answers[judged] for one in models]
    names, numbers = [], None
    if groups is not None:
        # A row without a group gets a number of its own.
        names = [spelled(groups[row]) for row in judged.tolist()]
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        numbers = np.array([number[name] if name else len(names) + row for row, name in enumerate(names)], np.int64)
    options = {"classes": len(labels), "groups": numbers, "resamples": resamples, "seed": seed}
    sides = []
    for one, why, here, mine in zip(models, reasons, answered, answers, strict=True):
        chosen = one.answers if one.answers.ndim == 1 else np.nan_to_num(one.answers, nan=-1.0).argmax(1)
        right = float((chosen == gold)[here].sum() / labelled.sum())
        failures = _errors(why, labelled & ~here)
        sides.append(Side(one.name, failures, one.contradicted, right, assess(truth, mine, **options)))  # type: ignore[arg-type]
    return Evaluation(
        table=table,
        labels=tuple(labels),
        rows=len(gold),
        labelled=int(labelled.sum()),
        judged=len(judged),
        unreadable=_errors(errors, unreadable),
        group_column=group_column,
        ungrouped=names.count(""),
        sides=tuple(sides),
        comparison=compare(truth, answers[0], answers[1], **options) if len(answers) > 1 else None,  # type: ignore[arg-type]
    )


def _errors(errors: Sequence[str | None], rows: np.ndarray) -> tuple[RowError, ...]:
    return tuple(RowError(row, errors[row] or "") for row in np.flatnonzero(rows).tolist())
