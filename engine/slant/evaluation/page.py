"""An evaluation as one HTML page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from slant import __version__
from slant.evaluation.assess import Assessment
from slant.evaluation.charts import heatmap, reliability
from slant.evaluation.evaluation import Evaluation, Side, notes
from slant.evaluation.markup import document, figure, legend, section, table, tiles
from slant.evaluation.show import ORDER, baseline_sentence, class_rows, figure_rows, paired_sentence, sampling_sentence
from slant.evaluation.words import four, percent

COLOURS = ("second", "first")  # of one side; of two, the first has the other one


def html(evaluation: Evaluation, date: str) -> str:
    """The whole document; ``date`` is shown."""
    e = evaluation
    names = [side.name for side in e.sides]
    heading = " → ".join(names)
    body = [
        f"<header><p class=kicker>slant evaluate · {escape(date)}</p><h1>{escape(heading)}</h1>"
        f"<p class=sub>against the gold labels of {escape(e.table)}</p></header>",
        _tiles(e),
        section(
            "Figures",
            escape(_sides(names)),
            table(*figure_rows(e)),
            _notes(baseline_sentence(e), paired_sentence(e), sampling_sentence(e)),
        ),
        _rows(e),
        section("Labels", "", f'<div class="grid{" roomy" if len(e.labels) > 6 else ""}">{_heatmaps(e)}</div>'),
        *(
            section(f"By label{_suffix(e, i)}", "", table(*class_rows(e, side.assessment)))
            for i, side in enumerate(e.sides)
        ),
        _calibration(e),
        f"<footer><dl><dt>Rows</dt><dd>{e.rows:,}, {e.labelled:,} of them labelled, {e.judged:,} judged</dd>"
        f"<dt>Version</dt><dd>slant {escape(__version__)}</dd></dl></footer>",
    ]
    return document(f"Evaluation of {heading}", body)


def _tiles(e: Evaluation) -> str:
    """The only side's figures and what to hold against them, or the second's with the first's below."""
    last, first = e.sides[-1].assessment, e.sides[0].assessment if len(e.sides) > 1 else None
    base = f"always {e.labels[last.baseline.label]}: {percent(last.baseline.accuracy)}"

    def tile(name: str, of: Callable[[Assessment], str], note: str) -> tuple[str, str, str]:
        return name, of(last), f"{ORDER[0]}: {of(first)}" if first else note

    def kappa(a: Assessment) -> str:
        return f"{a.quadratic_kappa.value:.3f}" if a.quadratic_kappa else "–"

    def ece(a: Assessment) -> str:
        return four(a.confidence.calibration.ece) if a.confidence else "–"

    return tiles(
        [
            tile("Accuracy", lambda a: percent(a.accuracy.value), base),
            tile("MAE, classes", lambda a: f"{a.mae.value:.3f}", "0 is perfect"),
            tile("Kappa, quadratic", kappa, "1 is perfect, 0 chance"),
            tile("Macro-F1", lambda a: f"{a.macro_f1.value:.3f}", f"of {len(e.labels)} labels"),
            *([tile("ECE", ece, "0 is calibrated")] if last.confidence else []),
        ]
    )


def _sides(names: list[str]) -> str:
    if len(names) == 1:
        return ""
    return "; ".join(f"{order}: {name}" for order, name in zip(ORDER, names, strict=True)) + "."


def _suffix(e: Evaluation, i: int) -> str:
    return f", {ORDER[i]}" if len(e.sides) > 1 else ""


def _heatmaps(e: Evaluation) -> str:
    return "".join(
        figure(
            heatmap(side.assessment.confusion, e.labels, "gold", "answer"),
            f"Gold → {ORDER[i] if len(e.sides) > 1 else 'answer'}",
        )
        for i, side in enumerate(e.sides)
    )


def _calibration(e: Evaluation) -> str:
    colours = COLOURS[: len(e.sides)][::-1]
    series = [
        (_short(e, i, side), colours[i], side.assessment.confidence.calibration)
        for i, side in enumerate(e.sides)
        if side.assessment.confidence
    ]
    if not series:
        return ""
    note = (
        "Confidence in the most probable label, and how often it was right. Ten bins of equal width; a dot's area is "
        "its share of the rows; on the dashed line is calibrated."
    )
    key = legend(*((colour, name) for name, colour, _ in series)) if len(series) > 1 else ""
    eces = " ".join(f"ECE {name}: {four(calibration.ece)}." for name, _, calibration in series)
    return section("Calibration", note + key, f"<div class=grid>{figure(reliability(series), '', eces)}</div>")


def _short(e: Evaluation, i: int, side: Side) -> str:
    return ORDER[i] if len(e.sides) > 1 else side.name


def _rows(e: Evaluation) -> str:
    said = notes(e)
    return section("Rows", "", _notes(*said)) if said else ""


def _notes(*sentences: str) -> str:
    return "".join(f"<p class=note>{escape(sentence)}</p>" for sentence in sentences if sentence)
