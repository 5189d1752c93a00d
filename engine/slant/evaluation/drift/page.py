"""A drift report as one HTML page: no script, nothing from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from slant.artifact.drift_record import GoldComparison, Matrix, Slice
from slant.evaluation.charts import heatmap, reliability
from slant.evaluation.drift import charts
from slant.evaluation.drift.report import FIGURES, DriftReport, Worst, gold_rows, lengths, sides, verdict
from slant.evaluation.markup import document, figure, legend, section, table, tiles
from slant.evaluation.words import number, percent

FAILURES = 50  # shown by name


def html(report: DriftReport) -> str:
    """The whole document."""
    drift, made = report.drift, report.certificate
    reference, ours = sides(report)
    fine, sentence = verdict(report)
    kind = "bad" if not fine else "good" if sentence.startswith("Within") else "plain"
    body = [
        f"<header><p class=kicker>slant drift · {escape(made.date)}</p><h1>{escape(ours)}</h1>"
        f"<p class=sub>against the reference: {escape(reference)}</p>"
        f'<p class="verdict {kind}">{escape(sentence)}</p></header>',
        _tiles(report),
        section("Labels", "", _confusions(report)),
        section(
            "Drift by length",
            "Each dot is a text: the largest change of any label's probability."
            + legend(("flip", "label flipped"), ("point", "same label")),
            f"<div class=scroll>{_scatter(report)}</div>",
            _by_length([drift.overall, *drift.buckets]),
        ),
        _calibration(drift.overall),
        section(
            "Where it drifted most",
            "The rows of largest |Δp|." + legend(("theirs", "reference"), ("mine", "ours")),
            _worst(report.worst(), drift.labels),
        ),
        _failures(report),
        _about(report),
    ]
    return document(f"Drift of {ours}", body)


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
    return tiles(shown)


def _confusions(report: DriftReport) -> str:
    overall, labels = report.drift.overall, report.drift.labels
    pairs: list[tuple[Matrix, str, str]] = [(overall.figures.confusion, "reference", "ours")]
    if overall.gold:
        pairs.append((overall.gold.reference.confusion, "gold", "reference"))
        pairs.append((overall.gold.ours.confusion, "gold", "ours"))
    maps = "".join(
        figure(heatmap(counts, labels, rows, columns), f"{rows} → {columns}".capitalize())
        for counts, rows, columns in pairs
    )
    return f'<div class="grid{" roomy" if len(labels) > 6 else ""}">{maps}</div>' + (
        _gold(overall.gold) if overall.gold else ""
    )


def _gold(gold: GoldComparison) -> str:
    head = ["", "reference", "ours", "ours − reference, 95 % interval"]
    note = f"{gold.rows:,} gold labels; paired bootstrap of {gold.resamples:,} resamples, seed {gold.seed}."
    return table(head, gold_rows(gold)) + f"<p class=note>{note}</p>"


def _scatter(report: DriftReport) -> str:
    rows = report.rows
    return charts.scatter(rows.tokens, rows.delta, rows.flip, report.drift.overall.figures.delta.p99)


def _by_length(groups: Sequence[Slice]) -> str:
    head = ["tokens", "all", *map(lengths, groups[1:])]
    return table(head, [[name, *(figure(group.figures) for group in groups)] for name, figure in FIGURES])


def _calibration(overall: Slice) -> str:
    charted = [
        (
            "Against the reference's probability",
            [("ours", "second", overall.figures.calibration)],
        )
    ]
    if gold := overall.gold:
        both = [("reference", "first", gold.reference.calibration), ("ours", "second", gold.ours.calibration)]
        charted.insert(0, ("Against the gold labels", both))
    figures = "".join(
        figure(
            reliability(series),
            title,
            " ".join(f"ECE {name}: {number(calibration.ece)}." for name, _, calibration in series),
        )
        for title, series in charted
    )
    key = legend(("first", "reference"), ("second", "ours")) if overall.gold else ""
    note = (
        "Confidence in the chosen label, and how often it was right (with gold labels) or what the reference gave it. "
        "Ten bins of equal width; a dot's area is its share of the texts; on the dashed line is calibrated."
    )
    return section("Calibration", note + key, f"<div class=grid>{figures}</div>")


def _worst(rows: Iterable[Worst], labels: Sequence[str]) -> str:
    lines = []
    for row in rows:
        change = row.ours if row.ours == row.reference else f"{row.reference} → {row.ours}"
        flipped = ' class="flipped"' if row.ours != row.reference else ""
        gold = f"<br><small>gold: {escape(row.gold)}</small>" if row.gold is not None else ""
        lines.append(
            f"<tr><td class=num>{row.row + 1:,}</td><td class=num>{row.tokens:,}</td><td class=num>{row.delta:.4f}</td>"
            f"<td>{charts.bars(row.p, row.q)}</td><td{flipped}>{escape(change)}{gold}</td>"
            f'<td class=text dir="auto">{escape(row.text)}</td></tr>'
        )
    head = "".join(
        f"<th{' class=num' if i < 3 else ''}>{name}</th>"
        for i, name in enumerate(["row", "tokens", "|Δp|", "probabilities", "label", "text"])
    )
    body = "".join(lines)
    return f"<div class=scroll><table class=full><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _failures(report: DriftReport) -> str:
    found = report.drift.failures
    if not found:
        return ""
    rows = [[f"{f.row + 1:,}", f.reference or "answered", f.ours or "answered"] for f in found[:FAILURES]]
    more = f"<p class=note>… and {len(found) - FAILURES:,} more.</p>" if len(found) > FAILURES else ""
    note = f"{len(found):,} of {report.drift.rows:,} rows are in no figure."
    return section("Rows not compared", note, table(["row", "reference", "ours"], rows, words=True), more)


def _about(report: DriftReport) -> str:
    made = report.certificate
    versions = made.versions
    facts = {
        "Texts": f"{report.drift.rows:,}, {report.drift.overall.figures.rows:,} of them compared",
        "Device": made.device,
        "Prompt": f"at most {made.prompt.max_tokens:,} tokens, truncation {made.prompt.truncation}",
        "Versions": ", ".join(
            f"{name} {value}"
            for name in ("slant", "torch", "numpy", "transformers", "hqq")
            if (value := getattr(versions, name))
        ),
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<footer><dl>{items}</dl></footer>"
