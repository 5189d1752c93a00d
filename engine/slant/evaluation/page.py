"""An evaluation as one HTML page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from slant import __version__
from slant.evaluation import markup
from slant.evaluation.assess import Assessment
from slant.evaluation.evaluation import Evaluation
from slant.evaluation.formatting import number, percent
from slant.evaluation.report import ORDER, class_rows, metric_rows, notes, summary


def html(evaluation: Evaluation, date: str) -> str:
    """The whole document; ``date`` is shown."""
    e = evaluation
    two = len(e.sides) > 1
    shown = list(zip(ORDER if two else ("answer",), e.sides, strict=True))
    colours = ("first", "second") if two else ("second",)
    series = [
        (order if two else side.name, colour, side.assessment.confidence.calibration)
        for (order, side), colour in zip(shown, colours, strict=True)
        if side.assessment.confidence
    ]
    said = notes(e)
    body = [
        _tiles(e),
        markup.section(
            "Metrics",
            markup.table(*metric_rows(e)),
            markup.notes(*summary(e)),
            note_html=escape("; ".join(f"{order}: {side.name}" for order, side in shown) + ".") if two else "",
        ),
        markup.section("Rows", markup.notes(*said)) if said else "",
        markup.section(
            "Labels",
            markup.confusions(e.labels, [(side.assessment.confusion, "gold", order) for order, side in shown]),
        ),
        *(
            markup.section(f"By label, {order}" if two else "By label", markup.table(*class_rows(e, side.assessment)))
            for order, side in shown
        ),
    ]
    if series:
        note = "Confidence in the most probable label, and how often it was right."
        body.append(markup.calibration(note, [("", series)]))
    rows = f"{e.rows:,}, {e.labelled:,} of them labelled, {e.judged:,} evaluated"
    title = " → ".join(side.name for side in e.sides)
    head = f"<p class=sub>against the gold labels of {escape(e.table)}</p>"
    facts = {"Rows": rows, "Version": f"slant {__version__}"}
    return markup.document(f"slant evaluate · {date}", title, head, body, facts)


def _tiles(e: Evaluation) -> str:
    """The only model's metrics and what to compare them with, or the second's with the first's below."""
    last, first = e.sides[-1].assessment, e.sides[0].assessment if len(e.sides) > 1 else None

    def tile(name: str, of: Callable[[Assessment], str], note: str) -> tuple[str, str, str]:
        return name, of(last), f"{ORDER[0]}: {of(first)}" if first else note

    def kappa(a: Assessment) -> str:
        return f"{a.quadratic_kappa.value:.3f}" if a.quadratic_kappa else "–"

    def ece(a: Assessment) -> str:
        return number(a.confidence.calibration.ece) if a.confidence else "–"

    base = f"always {e.labels[last.baseline.label]}: {percent(last.baseline.accuracy)}"
    return markup.tiles(
        [
            tile("Accuracy", lambda a: percent(a.accuracy.value), base),
            tile("MAE, classes", lambda a: f"{a.mae.value:.3f}", "0 is perfect"),
            tile("Kappa, quadratic", kappa, "1 is perfect, 0 chance"),
            tile("Macro-F1", lambda a: f"{a.macro_f1.value:.3f}", f"of {len(e.labels)} labels"),
            *([tile("ECE", ece, "0 is calibrated")] if last.confidence else []),
        ]
    )
