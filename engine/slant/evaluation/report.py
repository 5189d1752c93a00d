"""An evaluation on a terminal and as one HTML page, from the same tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from rich.console import Group, RenderableType
from rich.text import Text

from slant import __version__
from slant.evaluation import markup
from slant.evaluation.assess import Assessment, Comparison
from slant.evaluation.bootstrap import Estimate
from slant.evaluation.evaluation import Evaluation, RowError
from slant.evaluation.formatting import METRICS, four, interval, number, percent, rows_of, terminal_table

ORDER = ("first", "second")  # how two models are called in tables
FEW = 30  # groups; with 20 a 95 % interval of a cluster bootstrap held the truth in some 90 % of simulations

TableRows = tuple[list[str], list[list[str]]]  # heads, and rows of as many cells


def figures(of: Assessment | Comparison) -> dict[str, Estimate | None]:
    """By the keys of ``METRICS``; None where a metric is undefined or there are no probabilities."""
    found = {key: getattr(of, key, None) for _, key, _, _ in METRICS}
    if isinstance(of, Assessment) and (held := of.confidence):
        ece, infinite = (Estimate(value, None, None) for value in (held.calibration.ece, math.inf))
        found |= {"ece": ece, "brier": held.brier, "nll": held.nll or infinite}
    return found


def metric_rows(evaluation: Evaluation) -> TableRows:
    """The metrics of one model, or of two and their difference."""
    sides, difference = [figures(side.assessment) for side in evaluation.sides], evaluation.comparison
    rows = []
    for name, key, form, change in METRICS if any(side["ece"] for side in sides) else METRICS[:4]:
        columns = [(side[key], form) for side in sides] + ([(figures(difference)[key], change)] if difference else [])
        undefined = "undefined" if key == "quadratic_kappa" else "–"
        rows.append([name, *(interval(write, e.value, e.low, e.high) if e else undefined for e, write in columns)])
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


def summary(evaluation: Evaluation) -> list[str]:
    """The baseline, McNemar's test for two models, and where the intervals come from, a sentence or two each."""
    a, comparison = evaluation.sides[0].assessment, evaluation.comparison
    base = a.baseline
    said = [
        f'Majority-class baseline, always "{evaluation.labels[base.label]}": accuracy {percent(base.accuracy)}, '
        f"MAE {four(base.mae)}, kappa 0, macro-F1 {four(base.macro_f1)}."
    ]
    if comparison:
        balance = "McNemar's test takes rows as independent, so there is none with groups."
        if test := comparison.mcnemar:
            balance = (
                f"Only the first is right in {test.only_first:,} rows, only the second in {test.only_second:,}: "
                f"exact McNemar p = {number(test.p_value)}."
            )
        said.append(f"Accuracies differ in percentage points. {balance}")
    rows = f"{a.rows:,} rows evaluated."
    if a.accuracy.low is None:
        return [*said, f"{rows} One {'row' if a.groups is None else 'group'} alone has no interval."]
    drawn = "rows" if a.groups is None else f"{a.groups:,} groups by {evaluation.group_column}"
    rows += f" 95 % percentile bootstrap of {drawn}, {a.resamples:,} resamples, seed {a.seed}."
    if a.quadratic_kappa and (undefined := a.quadratic_kappa.undefined):
        rows += f" Kappa is undefined in {undefined:,} of them, which its interval leaves out."
    return [*said, rows]


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
                f"{side.name}: {rows_of(confidence.impossible, e.judged, 'evaluated rows')} give their gold label the "
                "probability 0, so the mean NLL is infinite."
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
    heads, rows = metric_rows(evaluation)
    if evaluation.comparison:  # intervals below their metrics, or the table would be too wide
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    parts: list[RenderableType] = [*(Text(title, style="bold") for title in titles), Text()]
    parts += [terminal_table(heads, rows), *map(Text, summary(evaluation))]
    for title, side in zip(titles, evaluation.sides, strict=True):
        if len(names) > 1:
            parts += [Text(), Text(title, style="bold")]
        parts += [Text(), terminal_table(*class_rows(evaluation, side.assessment)), Text()]
        counts: list[list[str | Text]] = [
            [name, *(_count(row, i, j) for j in range(len(row)))]
            for i, (name, row) in enumerate(zip(evaluation.labels, side.assessment.confusion, strict=True))
        ]
        parts.append(terminal_table(["gold ↓ answer →", *evaluation.labels], counts))
        if held := side.assessment.confidence:
            bins = [
                [f"{b.low:.1f}–{b.high:.1f}", f"{b.rows:,}", f"{b.confidence:.3f}", f"{b.outcome:.3f}"]
                for b in held.calibration.bins
            ]
            parts += [Text(), terminal_table(["confidence", "rows", "mean", "right"], bins)]
    for note in notes(evaluation):
        parts += [Text(), Text(note, style="yellow")]
    return Group(*parts)


def html(evaluation: Evaluation, date: str) -> str:
    """The whole document; ``date`` is shown."""
    e, two = evaluation, len(evaluation.sides) > 1
    shown = list(zip(ORDER if two else ("answer",), e.sides, strict=True))
    series = [
        (order if two else side.name, order if two else "second", side.assessment.confidence.calibration)
        for order, side in shown
        if side.assessment.confidence
    ]
    which = escape("; ".join(f"{order}: {side.name}" for order, side in shown) + ".") if two else ""
    metrics = markup.table(*metric_rows(e)), markup.notes(*summary(e))
    confusions = [(side.assessment.confusion, "gold", order) for order, side in shown]
    body = [_tiles(e), markup.section("Metrics", *metrics, note_html=which)]
    if said := notes(e):
        body.append(markup.section("Rows", markup.notes(*said)))
    body.append(markup.section("Labels", markup.confusions(e.labels, confusions)))
    for order, side in shown:
        title = f"By label, {order}" if two else "By label"
        body.append(markup.section(title, markup.table(*class_rows(e, side.assessment))))
    if series:
        note = "Confidence in the most probable label, and how often it was right."
        body.append(markup.calibration(note, [("", series)]))
    head = f"<p class=sub>against the gold labels of {escape(e.table)}</p>"
    rows = f"{e.rows:,}, {e.labelled:,} of them labelled, {e.judged:,} evaluated"
    facts = {"Rows": rows, "Version": f"slant {__version__}"}
    return markup.document(f"slant evaluate · {date}", " → ".join(side.name for side in e.sides), head, body, facts)


def _tiles(e: Evaluation) -> str:
    """The only model's metrics and what to compare them with, or the second's with the first's below."""
    base = e.sides[0].assessment.baseline
    always = f"always {e.labels[base.label]}: {percent(base.accuracy)}"
    ideals = always, "0 is perfect", "1 is perfect, 0 chance", f"of {len(e.labels)} labels", "0 is calibrated"
    sides = [figures(side.assessment) for side in e.sides]
    shown = []
    for (name, key, form, _), ideal in zip(METRICS, ideals, strict=False):
        first, last = (form(found.value) if (found := side[key]) else "–" for side in (sides[0], sides[-1]))
        if key != "ece" or sides[-1]["ece"]:
            shown.append((name[0].upper() + name[1:], last, ideal if len(sides) == 1 else f"{ORDER[0]}: {first}"))
    return markup.tiles(shown)


def _count(row: Sequence[int], i: int, j: int) -> Text:
    """A cell of the confusion matrix: the largest of its gold label bold, a right one green."""
    style = f"{'bold' if row[j] == max(row) else ''} {'green' if i == j else ''}".strip() if row[j] else "dim"
    return Text(f"{row[j]:,}" if row[j] else "·", style=style)


def _first(errors: Sequence[RowError]) -> str:
    shown = " ".join(f"Row {error.row + 1}: {error.error}" for error in errors[:3])
    return shown + (f" … and {len(errors) - 3:,} more." if len(errors) > 3 else "")
