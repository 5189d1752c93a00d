"""A drift report as one HTML page."""

from __future__ import annotations

from html import escape

from slant.evaluation import markup
from slant.evaluation.charts import bars, scatter
from slant.evaluation.drift.report import DriftReport, figure_rows, gold_rows, sides, verdict
from slant.evaluation.formatting import number, percent
from slant.evaluation.markup import Html

MOST_FAILURES = 50  # shown with their errors


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
        _failures(report),
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


def _failures(report: DriftReport) -> str:
    found = report.drift.failures
    if not found:
        return ""
    rows = [[f"{f.row + 1:,}", f.reference or "answered", f.ours or "answered"] for f in found[:MOST_FAILURES]]
    more = f"… and {len(found) - MOST_FAILURES:,} more." if len(found) > MOST_FAILURES else ""
    note = f"{len(found):,} of {report.drift.rows:,} rows are in no figure."
    table = markup.table(["row", "reference", "ours"], rows, numeric=())
    return markup.section("Rows not compared", table, markup.notes(more), note_html=note)
