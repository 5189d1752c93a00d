"""An evaluation as one HTML page."""

from __future__ import annotations

from html import escape

from slant import __version__
from slant.evaluation import markup
from slant.evaluation.evaluation import Evaluation
from slant.evaluation.formatting import METRICS, percent
from slant.evaluation.report import ORDER, class_rows, figures, metric_rows, notes, summary


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
