"""A drift report: its data, on a terminal, as JSON, and as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from html import escape
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python
from rich.console import Group, RenderableType
from rich.text import Text

from slant.artifact import certificate as certificates
from slant.artifact.certificate import Certificate
from slant.artifact.drift_record import Drift, DriftFigures, GoldComparison
from slant.evaluation import markup
from slant.evaluation.charts import bars, scatter
from slant.evaluation.drift.budgets import Budgets, Exceeded, exceeded
from slant.evaluation.drift.figures import RowDrift
from slant.evaluation.formatting import METRICS, beginning, four, interval, number, percent, terminal_table
from slant.evaluation.markup import Html
from slant.evaluation.metrics import Labels
from slant.tables.labelled import NO_LABEL

WORST = 20  # rows shown in the page and in JSON
MOST_FAILURES = 50  # shown with their errors in the page


@dataclass(frozen=True)
class DriftReport:
    """All that is shown. ``rows`` are the compared rows; ``texts`` and ``gold`` are of all rows."""

    model: str
    certificate: Certificate
    budgets: Budgets
    rows: RowDrift
    texts: Sequence[object]
    gold: Labels | None

    @property
    def drift(self) -> Drift:
        return self.certificate.drift

    @property
    def exceeded(self) -> tuple[Exceeded, ...]:
        return exceeded(self.drift, self.budgets)

    def worst(self) -> list[dict[str, Any]]:
        """The ``WORST`` rows of largest |Δp|, the largest first, as JSON has them; ties in the order of the rows.

        ``row`` counts from 0, ``text`` is its beginning; labels are by name, and ``gold`` is None without one.
        """
        rows, labels = self.rows, self.drift.labels
        shown = []
        for i in np.argsort(-rows.delta, kind="stable")[:WORST].tolist():
            row = int(rows.index[i])
            gold = NO_LABEL if self.gold is None else int(self.gold[row])
            shown.append(
                {
                    "row": row,
                    "text": beginning(self.texts[row]),
                    "tokens": int(rows.tokens[i]),
                    "reference": labels[rows.p[i].argmax()],
                    "ours": labels[rows.q[i].argmax()],
                    "gold": None if gold == NO_LABEL else labels[gold],
                    **{name: float(getattr(rows, name)[i]) for name in ("delta", "kl", "expected")},
                    "p": rows.p[i].tolist(),
                    "q": rows.q[i].tolist(),
                }
            )
        return shown


def as_json(report: DriftReport) -> dict[str, Any]:
    """The certificate, the budgets with those exceeded, and the worst rows with the beginnings of their texts."""
    return {
        "model": report.model,
        "certificate": certificates.as_json(report.certificate),
        "budgets": to_jsonable_python(report.budgets),
        "exceeded": to_jsonable_python(report.exceeded),
        "worst": report.worst(),
    }


FIGURE_ROWS: tuple[tuple[str, Callable[[DriftFigures], str]], ...] = (
    ("texts", lambda f: f"{f.rows:,}"),
    ("label flips", lambda f: f"{f.flips:,}"),
    ("flip rate", lambda f: percent(f.flip_rate)),
    ("weighted by margin", lambda f: percent(f.weighted_flip_rate)),
    ("|Δp| mean", lambda f: number(f.delta.mean)),
    ("|Δp| p99", lambda f: number(f.delta.p99)),
    ("|Δp| max", lambda f: number(f.delta.maximum)),
    ("KL mean, nats", lambda f: number(f.kl.mean)),
    ("KL max", lambda f: number(f.kl.maximum)),
    ("|Δ expected| mean", lambda f: number(f.expected.mean)),
    ("|Δ expected| p99", lambda f: number(f.expected.p99)),
    ("|Δ expected| max", lambda f: number(f.expected.maximum)),
    ("ECE to reference", lambda f: number(f.calibration.ece)),
)


def figure_rows(drift: Drift) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row for each figure: over all rows, and in each length bucket if there are several."""
    buckets = drift.buckets if len(drift.buckets) > 1 else ()
    heads = [f"{part.low}–{part.high}" if part.high else f"{part.low}+" for part in buckets]
    slices = [drift.overall, *buckets]
    return ["tokens", "all", *heads], [[name, *(write(part.figures) for part in slices)] for name, write in FIGURE_ROWS]


def gold_rows(gold: GoldComparison) -> tuple[list[str], list[list[str]]]:
    """Heads, and rows of name, the reference's metric, ours, and their difference; accuracy's is in points."""
    both = gold.reference, gold.ours
    rows = [
        [name, *(form(getattr(side, key)) for side in both), interval(change, *astuple(getattr(gold, key)))]
        for name, key, form, change in METRICS
        if hasattr(gold, key)
    ]
    rows[0][-1] += " points"
    rows.append(["ECE", *(four(side.calibration.ece) for side in both), ""])
    return [f"{gold.rows:,} gold labels", "reference", "ours", "difference, 95 %"], rows


def sides(report: DriftReport) -> tuple[str, str]:
    """What is compared, in words: the reference, and ours."""
    made = report.certificate
    how = {"transformers": "by transformers", "layerwise": "layer by layer", "resident": "resident"}[made.method]
    return f"{made.reference} {how}", f"{report.model}, weights {made.weights}"


def verdict(report: DriftReport) -> tuple[bool, str]:
    """Whether the drift is within its budgets, and a sentence."""
    limits = [limit for name, limit in to_jsonable_python(report.budgets).items() if name != "max_lost"]
    if report.exceeded:
        return False, "Beyond the budgets: " + "; ".join(map(str, report.exceeded)) + "."
    return True, "Within the budgets." if any(limit is not None for limit in limits) else "No budgets were set."


def terminal(report: DriftReport) -> RenderableType:
    """The report for a terminal."""
    drift = report.drift
    reference, ours = sides(report)
    parts: list[RenderableType] = [Text(f"reference: {reference}"), Text(f"ours:      {ours}")]
    parts += [Text(), terminal_table(*figure_rows(drift))]
    if gold := drift.overall.gold:
        parts += [Text(), terminal_table(*gold_rows(gold))]
    if drift.failures:
        parts += [Text(), Text(failures(drift), style="yellow")]
    fine, sentence = verdict(report)
    return Group(*parts, Text(), Text(sentence, style="bold green" if fine else "bold red"))


def failures(drift: Drift) -> str:
    """The rows that were not compared, the first of them with their errors; rows count from 1 here."""
    first = [f"row {f.row + 1}: {f.ours or f.reference}" for f in drift.failures[:5]]
    more = f" … and {len(drift.failures) - 5:,} more" if len(drift.failures) > 5 else ""
    lost = f", {drift.lost:,} of them answered by the reference" if drift.lost else ""
    return f"{len(drift.failures):,} of {drift.rows:,} rows not compared{lost}. " + " ".join(first) + more


def html(report: DriftReport) -> str:
    """The whole document."""
    drift, made = report.drift, report.certificate
    reference, ours = sides(report)
    fine, sentence = verdict(report)
    kind = "bad" if not fine else "good" if sentence.startswith("Within") else "plain"
    rows = report.rows
    body = [
        _tiles(report),
        markup.section("Labels", _confusions(report)),
        markup.section(
            "Drift by length",
            f"<div class=scroll>{scatter(rows.tokens, rows.delta, rows.flip, drift.overall.figures.delta.p99)}</div>",
            markup.table(*figure_rows(drift)),
            note_html="Each dot is a text: the largest change of any label's probability."
            + markup.legend(("flip", "label flipped"), ("point", "same label")),
        ),
        _calibration(report),
        markup.section(
            "Largest drift",
            _worst(report),
            note_html="The rows of largest |Δp|." + markup.legend(("theirs", "reference"), ("mine", "ours")),
        ),
        _failed(report),
    ]
    head = (
        f'<p class=sub>against the reference: {escape(reference)}</p><p class="verdict {kind}">{escape(sentence)}</p>'
    )
    versions = ((name, getattr(made.versions, name)) for name in ("slant", "torch", "numpy", "transformers", "hqq"))
    facts = {
        "Texts": f"{drift.rows:,}, {drift.overall.figures.rows:,} of them compared",
        "Device": made.device,
        "Prompt": f"at most {made.prompt.max_tokens:,} tokens, truncation {made.prompt.truncation}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions if version),
    }
    return markup.document(f"slant drift · {made.date}", ours, head, body, facts)


def _tiles(report: DriftReport) -> str:
    f = report.drift.overall.figures
    shown = [
        ("Label flips", percent(f.flip_rate), f"{f.flips:,} of {f.rows:,} texts"),
        ("Flips by margin", percent(f.weighted_flip_rate), "of the reference's margin"),
        ("|Δp|, 99th percentile", number(f.delta.p99), f"mean {number(f.delta.mean)}, max {number(f.delta.maximum)}"),
        ("KL, mean", number(f.kl.mean), f"nats; max {number(f.kl.maximum)}"),
        ("|Δ expected|, mean", number(f.expected.mean), f"classes; max {number(f.expected.maximum)}"),
    ]
    if gold := report.drift.overall.gold:
        change = 100 * gold.accuracy.difference
        shown.append(("Accuracy", percent(gold.ours.accuracy), f"{change:+.2f} points to the reference"))
    return markup.tiles(shown)


def _confusions(report: DriftReport) -> str:
    overall, labels = report.drift.overall, report.drift.labels
    pairs = [(overall.figures.confusion, "reference", "ours")]
    if not (gold := overall.gold):
        return markup.confusions(labels, pairs)
    pairs += [(gold.reference.confusion, "gold", "reference"), (gold.ours.confusion, "gold", "ours")]
    note = f"Paired bootstrap of {gold.resamples:,} resamples, seed {gold.seed}."
    return markup.confusions(labels, pairs) + markup.table(*gold_rows(gold)) + markup.notes(note)


def _calibration(report: DriftReport) -> str:
    overall = report.drift.overall
    diagrams = [("Against the reference's probability", [("ours", "second", overall.figures.calibration)])]
    if gold := overall.gold:
        both = [("reference", "first", gold.reference.calibration), ("ours", "second", gold.ours.calibration)]
        diagrams.insert(0, ("Against the gold labels", both))
    note = "Confidence in the chosen label, and how often it was right (gold labels) or its probability (reference)."
    return markup.calibration(note, diagrams)


def _worst(report: DriftReport) -> str:
    rows = []
    for row in report.worst():
        label = escape(row["ours"])
        if row["ours"] != row["reference"]:
            label = f"<span class=flipped>{escape(row['reference'])} → {label}</span>"
        gold = "" if row["gold"] is None else f"<br><small>gold: {escape(row['gold'])}</small>"
        text = Html(f'<div class=text dir="auto">{escape(row["text"])}</div>')
        numbers = f"{row['row'] + 1:,}", f"{row['tokens']:,}", f"{row['delta']:.4f}"
        rows.append([*numbers, Html(bars(row["p"], row["q"])), Html(label + gold), text])
    return markup.table(["row", "tokens", "|Δp|", "probabilities", "label", "text"], rows, numeric=range(3))


def _failed(report: DriftReport) -> str:
    found = report.drift.failures
    if not found:
        return ""
    rows = [[f"{f.row + 1:,}", f.reference or "answered", f.ours or "answered"] for f in found[:MOST_FAILURES]]
    more = f"… and {len(found) - MOST_FAILURES:,} more." if len(found) > MOST_FAILURES else ""
    note = f"{len(found):,} of {report.drift.rows:,} rows are in no figure."
    table = markup.table(["row", "reference", "ours"], rows, numeric=())
    return markup.section("Rows not compared", table, markup.notes(more), note_html=note)
