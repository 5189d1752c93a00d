"""An evaluation in words: rows of tables, which the page shares, and the whole on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from slant.artifact.drift_record import Calibration
from slant.evaluation.assess import Assessment
from slant.evaluation.bootstrap import Estimate
from slant.evaluation.evaluation import Evaluation, notes
from slant.evaluation.words import bracketed, four, number, percent, points, signed

ORDER = ("first", "second")  # how two sides are called in tables

Form = Callable[[float], str]


def figure_rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the figures: of one side, or of two and their difference."""
    sides, difference = [side.assessment for side in evaluation.sides], evaluation.comparison
    shown: tuple[tuple[str, str, Form, Form], ...] = (
        ("accuracy", "accuracy", percent, points),
        ("MAE, classes", "mae", four, signed),
        ("kappa, quadratic", "quadratic_kappa", four, signed),
        ("macro-F1", "macro_f1", four, signed),
    )
    rows = []
    for name, key, form, change in shown:
        row = [name, *(_estimate(getattr(side, key), form) for side in sides)]
        rows.append(row + ([_estimate(getattr(difference, key), change)] if difference else []))
    if any(side.confidence for side in sides):
        rows += _confidence_rows(sides, evaluation)
    return ["", *([*ORDER, "second − first"] if difference else ["[95 % interval]"])], rows


def class_rows(evaluation: Evaluation, assessment: Assessment) -> tuple[list[str], list[list[str]]]:
    """Heads and rows by label: how often it is gold and predicted, precision, recall and F1."""
    heads = ["label", "gold", "share", "predicted", "precision", "recall", "F1"]
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
    return heads, rows


def bin_rows(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a reliability diagram."""
    rows = [
        [f"{b.low:.1f}–{b.high:.1f}", f"{b.rows:,}", f"{b.confidence:.3f}", f"{b.outcome:.3f}"]
        for b in calibration.bins
    ]
    return ["confidence", "rows", "mean", "right"], rows


def baseline_sentence(evaluation: Evaluation) -> str:
    """What the most frequent gold label alone would get."""
    base = evaluation.sides[0].assessment.baseline
    return (
        f'Always "{evaluation.labels[base.label]}", the most frequent gold label: accuracy {percent(base.accuracy)}, '
        f"MAE {four(base.mae)}, kappa 0, macro-F1 {four(base.macro_f1)}."
    )


def paired_sentence(evaluation: Evaluation) -> str:
    """McNemar's test in words; empty for one side."""
    if evaluation.comparison is None:
        return ""
    test, unit = evaluation.comparison.mcnemar, "Accuracies differ in percentage points. "
    if test is None:
        return f"{unit}McNemar's test takes rows as independent, so there is none with groups."
    return (
        f"{unit}Only the first is right in {test.only_first:,} rows, only the second in {test.only_second:,}: "
        f"exact McNemar p = {number(test.p_value)}."
    )


def sampling_sentence(evaluation: Evaluation) -> str:
    """What is judged, and where the intervals come from."""
    a = evaluation.sides[0].assessment
    drawn = "rows" if a.groups is None else f"{a.groups:,} groups by {evaluation.group_column}"
    if a.accuracy.low is None:
        return f"{a.rows:,} rows judged. One {'row' if a.groups is None else 'group'} alone has no interval."
    undefined = a.quadratic_kappa.undefined if a.quadratic_kappa else 0
    left = f" Kappa is undefined in {undefined:,} of them, which its interval leaves out." if undefined else ""
    return (
        f"{a.rows:,} rows judged. 95 % percentile bootstrap of {drawn}, {a.resamples:,} resamples, seed {a.seed}.{left}"
    )


def terminal(evaluation: Evaluation) -> RenderableType:
    """The evaluation for a terminal."""
    names = [side.name for side in evaluation.sides]
    titles = [f"{order}: {name}" for order, name in zip(ORDER, names, strict=True)] if len(names) > 1 else names
    parts: list[RenderableType] = [*(Text(title, style="bold") for title in titles), Text()]
    heads, rows = figure_rows(evaluation)
    if evaluation.comparison:  # intervals below their figures, or the table would be too wide
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    parts.append(_table(heads, rows))
    sentences = (baseline_sentence(evaluation), paired_sentence(evaluation), sampling_sentence(evaluation))
    parts += [Text(sentence) for sentence in sentences if sentence]
    for title, side in zip(titles, evaluation.sides, strict=True):
        if len(names) > 1:
            parts += [Text(), Text(title, style="bold")]
        parts += [Text(), _table(*class_rows(evaluation, side.assessment))]
        parts += [Text(), _confusion(evaluation, side.assessment)]
        if side.assessment.confidence:
            parts += [Text(), _table(*bin_rows(side.assessment.confidence.calibration))]
    for note in notes(evaluation):
        parts += [Text(), Text(note, style="yellow")]
    return Stack(*parts)


def _confidence_rows(sides: list[Assessment], evaluation: Evaluation) -> list[list[str]]:
    held, difference = [side.confidence for side in sides], evaluation.comparison
    changes = [None, difference.brier, difference.nll] if difference else []
    last = [["" if change is None else _estimate(change, signed)] for change in changes] or [[]] * 3
    return [
        ["ECE", *("–" if one is None else four(one.calibration.ece) for one in held), *last[0]],
        ["Brier", *("–" if one is None else _estimate(one.brier, four) for one in held), *last[1]],
        ["NLL, nats", *("–" if one is None else _estimate(one.nll, four, "∞") for one in held), *last[2]],
    ]


def _estimate(estimate: Estimate | None, form: Form, otherwise: str = "undefined") -> str:
    return otherwise if estimate is None else bracketed(form, estimate.value, estimate.low, estimate.high)


def _table(heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(*(Column(head, justify="right" if i else "left") for i, head in enumerate(heads)), padding=(0, 1))
    for row in rows:
        table.add_row(*row)
    return table


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
