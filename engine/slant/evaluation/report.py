"""An evaluation on a terminal, and the tables and sentences that its page shares."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from slant.artifact.drift_record import Calibration
from slant.evaluation.assess import Assessment
from slant.evaluation.bootstrap import Estimate
from slant.evaluation.evaluation import Evaluation, RowError
from slant.evaluation.formatting import METRICS, Form, four, interval, number, percent, rows_of, signed, terminal_table

ORDER = ("first", "second")  # how two models are called in tables
FEW = 30  # groups; with 20 a 95 % interval of a cluster bootstrap held the truth in some 90 % of simulations

TableRows = tuple[list[str], list[list[str]]]  # heads, and rows of as many cells


def metric_rows(evaluation: Evaluation) -> TableRows:
    """The metrics of one model, or of two and their difference."""
    sides, difference = [side.assessment for side in evaluation.sides], evaluation.comparison
    rows = []
    for name, key, form, change in METRICS:
        row = [name, *(_estimate(getattr(side, key), form) for side in sides)]
        rows.append(row + ([_estimate(getattr(difference, key), change)] if difference else []))
    held = [side.confidence for side in sides]
    if any(held):
        found = [
            ["ECE", *("–" if one is None else four(one.calibration.ece) for one in held)],
            ["Brier", *("–" if one is None else _estimate(one.brier, four) for one in held)],
            ["NLL, nats", *("–" if one is None else _estimate(one.nll, four, "∞") for one in held)],
        ]
        changes = [None, difference.brier, difference.nll] if difference else []
        last = [["" if change is None else _estimate(change, signed)] for change in changes] or [[]] * 3
        rows += [row + end for row, end in zip(found, last, strict=True)]
    return ["", *([*ORDER, "second − first"] if difference else ["[95 % interval]"])], rows


def class_rows(evaluation: Evaluation, assessment: Assessment) -> TableRows:
    """By label: how often it is gold and predicted, precision, recall and F1."""
    rows = [
        [
            name,
            f"{one.gold:,}",
            percent(one.gold / assessment.rows),
            f"{one.predicted:,}",
            *("–" if value is None else f"{value:.3f}" for value in (one.precision, one.recall, one.f1)),
        ]
        for name, one in zip(evaluation.labels, assessment.classes, strict=True)
    ]
    return ["label", "gold", "share", "predicted", "precision", "recall", "F1"], rows


def bin_rows(calibration: Calibration) -> TableRows:
    """The bins of a reliability diagram."""
    rows = [
        [f"{b.low:.1f}–{b.high:.1f}", f"{b.rows:,}", f"{b.confidence:.3f}", f"{b.outcome:.3f}"]
        for b in calibration.bins
    ]
    return ["confidence", "rows", "mean", "right"], rows


def summary(evaluation: Evaluation) -> list[str]:
    """The baseline, McNemar's test for two models, and where the intervals come from, a sentence or two each."""
    a, comparison = evaluation.sides[0].assessment, evaluation.comparison
    base = a.baseline
    said = [
        f'Majority-class baseline, always "{evaluation.labels[base.label]}": accuracy {percent(base.accuracy)}, '
        f"MAE {four(base.mae)}, kappa 0, macro-F1 {four(base.macro_f1)}."
    ]
    if comparison:
        test = comparison.mcnemar
        said.append(
            "Accuracies differ in percentage points. "
            + (
                f"Only the first is right in {test.only_first:,} rows, only the second in {test.only_second:,}: "
                f"exact McNemar p = {number(test.p_value)}."
                if test
                else "McNemar's test takes rows as independent, so there is none with groups."
            )
        )
    if a.accuracy.low is None:
        unit = "row" if a.groups is None else "group"
        return [*said, f"{a.rows:,} rows evaluated. One {unit} alone has no interval."]
    drawn = "rows" if a.groups is None else f"{a.groups:,} groups by {evaluation.group_column}"
    undefined = a.quadratic_kappa.undefined if a.quadratic_kappa else 0
    left = f" Kappa is undefined in {undefined:,} of them, which its interval leaves out." if undefined else ""
    return [
        *said,
        f"{a.rows:,} rows evaluated. 95 % percentile bootstrap of {drawn}, {a.resamples:,} resamples, seed {a.seed}."
        + left,
    ]


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader must know about the rows behind the metrics, a sentence each; rows count from 1 here."""
    e = evaluation
    said = []
    if missing := e.rows - e.labelled - len(e.unreadable):
        said.append(f"{rows_of(missing, e.rows)} have no gold label.")
    if e.unreadable:
        said.append(f"{rows_of(len(e.unreadable), e.rows)} could not be read. {_first(e.unreadable)}")
    for side in e.sides:
        if side.failures:
            said.append(
                f"{side.name} did not answer {rows_of(len(side.failures), e.labelled, 'labelled rows')}; with these "
                f"counted as wrong its accuracy is {percent(side.accuracy_of_all)}. {_first(side.failures)}"
            )
        if side.contradicted:
            said.append(
                f"{side.name}: in {side.contradicted:,} rows the label column is not the most probable label; the "
                "most probable label was evaluated."
            )
        confidence = side.assessment.confidence
        if confidence and confidence.off_one:
            said.append(
                f"{side.name}: the probabilities of {rows_of(confidence.off_one, e.judged, 'evaluated rows')} do not "
                f"sum to 1 (off by up to {confidence.farthest:.3g}); they were evaluated as they are."
            )
        if confidence and confidence.impossible:
            said.append(
                f"{side.name}: the mean NLL is infinite, since "
                f"{rows_of(confidence.impossible, e.judged, 'evaluated rows')} give their gold label the probability 0."
            )
    groups = e.sides[0].assessment.groups
    if e.ungrouped:
        said.append(
            f"{rows_of(e.ungrouped, e.judged, 'evaluated rows')} have no {e.group_column}: each is a group of its own."
        )
    if groups is not None and groups < FEW:
        said.append(f"{groups:,} groups are few: the intervals are narrower than they should be.")
    return said


def terminal(evaluation: Evaluation) -> RenderableType:
    """The evaluation for a terminal."""
    names = [side.name for side in evaluation.sides]
    titles = [f"{order}: {name}" for order, name in zip(ORDER, names, strict=True)] if len(names) > 1 else names
    parts: list[RenderableType] = [*(Text(title, style="bold") for title in titles), Text()]
    heads, rows = metric_rows(evaluation)
    if evaluation.comparison:  # intervals below their metrics, or the table would be too wide
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    parts += [terminal_table(heads, rows), *map(Text, summary(evaluation))]
    for title, side in zip(titles, evaluation.sides, strict=True):
        if len(names) > 1:
            parts += [Text(), Text(title, style="bold")]
        parts += [Text(), terminal_table(*class_rows(evaluation, side.assessment))]
        parts += [Text(), _confusion(evaluation, side.assessment)]
        if side.assessment.confidence:
            parts += [Text(), terminal_table(*bin_rows(side.assessment.confidence.calibration))]
    for note in notes(evaluation):
        parts += [Text(), Text(note, style="yellow")]
    return Group(*parts)


def _estimate(estimate: Estimate | None, form: Form, otherwise: str = "undefined") -> str:
    return otherwise if estimate is None else interval(form, estimate.value, estimate.low, estimate.high)


def _first(errors: Sequence[RowError], count: int = 3) -> str:
    shown = " ".join(f"Row {error.row + 1}: {error.error}" for error in errors[:count])
    return shown + (f" … and {len(errors) - count:,} more." if len(errors) > count else "")


def _confusion(evaluation: Evaluation, assessment: Assessment) -> Table:
    """Counts, the largest of each gold label bold and the right ones green."""
    table = Table("gold ↓ answer →", *(Column(name, justify="right") for name in evaluation.labels), padding=(0, 1))
    for i, (name, counts) in enumerate(zip(evaluation.labels, assessment.confusion, strict=True)):
        cells = []
        for j, count in enumerate(counts):
            style = f"{'bold' if count == max(counts) else ''} {'green' if i == j else ''}" if count else "dim"
            cells.append(Text(f"{count:,}" if count else "·", style=style.strip()))
        table.add_row(name, *cells)
    return table
