"""One model or two against the gold labels of a table: which rows can be judged, and the figures of those.

A row is judged if it could be read, has a gold label, and has an answer of every model. What could not be answered is
in no figure, since no label would be fair to it: the share is told, and the accuracy if each counted as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slant.errors import SlantError
from slant.evaluation.assess import Assessment, assess
from slant.evaluation.bootstrap import RESAMPLES, SEED
from slant.evaluation.compare import Comparison, compare
from slant.evaluation.metrics import NO_LABEL, Labels
from slant.evaluation.predictions import Predictions
from slant.evaluation.words import percent
from slant.tables.labelled import spelled

FEW = 30  # groups; with 20 a 95 % interval of a cluster bootstrap held the truth in some 90 % of simulations


@dataclass(frozen=True, slots=True)
class Failure:
    """A row, counted from 0, and why it has no answer or could not be read."""

    row: int
    error: str


@dataclass(frozen=True, slots=True)
class Side:
    """A model by its name: the labelled rows it did not answer, and its figures on the rows that are judged.

    ``accuracy_of_all`` is its share of right answers among all labelled rows, those without an answer counted wrong.
    """

    name: str
    failures: tuple[Failure, ...]
    contradicted: int
    accuracy_of_all: float
    assessment: Assessment


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``judged`` of the ``labelled`` rows among all ``rows`` of a table; ``unreadable`` rows are not labelled.

    ``ungrouped`` rows are judged without a group, each for itself. ``comparison`` is the second side against the first.
    """

    table: str
    labels: tuple[str, ...]
    rows: int
    labelled: int
    judged: int
    unreadable: tuple[Failure, ...]
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
    """Judge one model, or two and their difference, on the rows of a table.

    labels: the k names. gold: int64 ``[n]``, -1 for a row without a label. errors: why a row could not be read. groups:
    a value for each row; where it is missing, the row is a group of its own.

    Raises SlantError if no row can be judged, ValueError for more than two models.
    """
    if len(models) not in (1, 2):
        raise ValueError(f"one model or two can be evaluated, not {len(models)}.")
    unreadable = np.array([error is not None for error in errors or [None] * len(gold)])
    labelled = (gold != NO_LABEL) & ~unreadable
    if not labelled.any():
        raise SlantError(f"{table} has no row with a gold label ({len(gold):,} rows): there is nothing to judge by.")
    reasons = [one.errors or (None,) * len(gold) for one in models]
    answered = [np.array([reason is None for reason in side]) & labelled for side in reasons]
    judged = np.flatnonzero(np.logical_and.reduce(answered))
    if not len(judged):
        first = next((e for side in reasons for e, here in zip(side, labelled, strict=True) if e and here), "")
        raise SlantError(f"no labelled row of {table} has an answer{' of both models' * (len(models) > 1)}: {first}")
    truth, answers = gold[judged], [one.answers[judged] for one in models]
    numbers = None if groups is None else _numbered([groups[row] for row in judged.tolist()])
    options = {"classes": len(labels), "groups": numbers, "resamples": resamples, "seed": seed}
    return Evaluation(
        table=table,
        labels=tuple(labels),
        rows=len(gold),
        labelled=int(labelled.sum()),
        judged=len(judged),
        unreadable=_failures(errors or (), unreadable),
        group_column=group_column,
        ungrouped=0 if groups is None else sum(not spelled(groups[row]) for row in judged.tolist()),
        sides=tuple(
            Side(
                one.name,
                _failures(why, labelled & ~here),
                one.contradicted,
                float((_labels(one) == gold)[here].sum() / labelled.sum()),
                assess(truth, mine, **options),  # type: ignore[arg-type]
            )
            for one, why, here, mine in zip(models, reasons, answered, answers, strict=True)
        ),
        comparison=compare(truth, answers[0], answers[1], **options) if len(answers) > 1 else None,  # type: ignore[arg-type]
    )


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader of the figures must know about the rows behind them, a sentence each; rows count from 1 here."""
    e = evaluation
    said = []
    if missing := e.rows - e.labelled - len(e.unreadable):
        said.append(f"{_of(missing, e.rows)} have no gold label.")
    if e.unreadable:
        said.append(f"{_of(len(e.unreadable), e.rows)} could not be read. {_first(e.unreadable)}")
    for side in e.sides:
        if side.failures:
            said.append(
                f"{side.name} did not answer {_of(len(side.failures), e.labelled, 'labelled rows')}; with these "
                f"counted as wrong its accuracy is {percent(side.accuracy_of_all)}. {_first(side.failures)}"
            )
        if side.contradicted:
            said.append(
                f"{side.name}: in {side.contradicted:,} rows the label column is not the most probable label, "
                "which is what was judged."
            )
        confidence = side.assessment.confidence
        if confidence and confidence.off_one:
            said.append(
                f"{side.name}: the probabilities of {_of(confidence.off_one, e.judged, 'judged rows')} do not sum to 1 "
                f"(off by up to {confidence.farthest:.3g}); they were judged as they are."
            )
        if confidence and confidence.impossible:
            said.append(
                f"{side.name}: the mean NLL is infinite, since {_of(confidence.impossible, e.judged, 'judged rows')} "
                "give their gold label the probability 0."
            )
    groups = e.sides[0].assessment.groups
    if e.ungrouped:
        said.append(
            f"{_of(e.ungrouped, e.judged, 'judged rows')} have no {e.group_column}: each is a group of its own."
        )
    if groups is not None and groups < FEW:
        said.append(f"{groups:,} groups are few: the intervals are narrower than they should be.")
    return said


def _numbered(groups: Sequence[object]) -> Labels:
    """Numbers that are the same where groups are."""
    names = [spelled(group) for group in groups]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] if name else len(names) + row for row, name in enumerate(names)], np.int64)


def _labels(one: Predictions) -> Labels:
    if one.answers.ndim == 1:
        return one.answers
    return np.where(np.isnan(one.answers), -1, one.answers).argmax(1)


def _failures(errors: Sequence[str | None], rows: np.ndarray) -> tuple[Failure, ...]:
    return tuple(Failure(row, errors[row] or "") for row in np.flatnonzero(rows).tolist())


def _of(some: int, whole: int, what: str = "rows") -> str:
    return f"{some:,} of {whole:,} {what} ({some / whole:.1%})"


def _first(failures: Sequence[Failure], count: int = 3) -> str:
    told = " ".join(f"Row {failure.row + 1}: {failure.error}" for failure in failures[:count])
    return told + (f" … and {len(failures) - count:,} more." if len(failures) > count else "")
