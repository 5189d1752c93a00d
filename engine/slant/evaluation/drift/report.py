"""A drift report: its data, the terminal's tables, and JSON; ``page`` makes HTML of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from slant.artifact import certificate as certificates
from slant.artifact.certificate import Certificate
from slant.artifact.drift_record import Drift, DriftFigures, GoldComparison, Slice
from slant.artifact.records import to_plain
from slant.evaluation.drift.budgets import Budgets, Exceeded, exceeded
from slant.evaluation.drift.figures import RowDrift
from slant.evaluation.formatting import METRICS, beginning, four, interval, number, percent, terminal_table
from slant.evaluation.metrics import Labels
from slant.tables.labelled import NO_LABEL

WORST = 20  # rows shown in the page and in JSON


@dataclass(frozen=True, slots=True)
class Worst:
    """One of the rows that drifted most: its index, the beginning of its text, labels by name, and figures."""

    row: int
    text: str
    tokens: int
    reference: str
    ours: str
    gold: str | None
    delta: float
    kl: float
    expected: float
    p: tuple[float, ...]
    q: tuple[float, ...]


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

    def worst(self, count: int = WORST) -> list[Worst]:
        """The rows of largest |Δp|, the largest first; ties in the order of the rows."""
        rows, labels = self.rows, self.drift.labels
        shown = []
        for i in np.argsort(-rows.delta, kind="stable")[:count]:
            row = int(rows.index[i])
            gold = NO_LABEL if self.gold is None else int(self.gold[row])
            shown.append(
                Worst(
                    row,
                    beginning(self.texts[row]),
                    int(rows.tokens[i]),
                    labels[int(rows.p[i].argmax())],
                    labels[int(rows.q[i].argmax())],
                    None if gold == NO_LABEL else labels[gold],
                    float(rows.delta[i]),
                    float(rows.kl[i]),
                    float(rows.expected[i]),
                    tuple(rows.p[i].tolist()),
                    tuple(rows.q[i].tolist()),
                )
            )
        return shown


def as_json(report: DriftReport) -> dict[str, Any]:
    """The certificate, the budgets with those exceeded, and the worst rows with the beginnings of their texts."""
    return {
        "model": report.model,
        "certificate": certificates.as_json(report.certificate),
        "budgets": to_plain(report.budgets),
        "exceeded": to_plain(report.exceeded),
        "worst": to_plain(tuple(report.worst())),
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


def gold_rows(gold: GoldComparison) -> list[list[str]]:
    """Name, the reference's metric, ours, and the difference with its 95 % interval; accuracy's is in points."""
    sides = gold.reference, gold.ours
    rows = [
        [name, *(form(getattr(side, key)) for side in sides), interval(change, *astuple(getattr(gold, key)))]
        for name, key, form, change in METRICS
        if hasattr(gold, key)
    ]
    rows[0][-1] += " points"
    return [*rows, ["ECE", *(four(side.calibration.ece) for side in sides), ""]]


def lengths(part: Slice) -> str:
    """The tokens of a length bucket: "1-128"."""
    return f"{part.low}–{part.high}" if part.high else f"{part.low}+"


def sides(report: DriftReport) -> tuple[str, str]:
    """What is compared, in words: the reference, and ours."""
    made = report.certificate
    how = {"transformers": "by transformers", "layerwise": "layer by layer", "resident": "resident"}[made.method]
    return f"{made.reference} {how}", f"{report.model}, weights {made.weights}"


def verdict(report: DriftReport) -> tuple[bool, str]:
    """Whether the drift is within its budgets, and a sentence."""
    limits = [limit for name, limit in to_plain(report.budgets).items() if name != "max_lost"]
    if report.exceeded:
        return False, "Beyond the budgets: " + "; ".join(map(str, report.exceeded)) + "."
    return True, "Within the budgets." if any(limit is not None for limit in limits) else "No budgets were set."


def terminal(report: DriftReport) -> RenderableType:
    """The report for a terminal."""
    drift = report.drift
    reference, ours = sides(report)
    buckets = drift.buckets if len(drift.buckets) > 1 else ()
    rows = [[name, *(figure(part.figures) for part in (drift.overall, *buckets))] for name, figure in FIGURE_ROWS]
    table = terminal_table(["tokens", "all", *map(lengths, buckets)], rows)
    parts: list[RenderableType] = [Text(f"reference: {reference}"), Text(f"ours:      {ours}"), Text(), table]
    if gold := drift.overall.gold:
        heads = [f"{gold.rows:,} gold labels", "reference", "ours", "difference, 95 %"]
        parts += [Text(), terminal_table(heads, gold_rows(gold))]
    if drift.failures:
        parts += [Text(), Text(failures(drift), style="yellow")]
    fine, sentence = verdict(report)
    return Group(*parts, Text(), Text(sentence, style="bold green" if fine else "bold red"))


def failures(drift: Drift, count: int = 5) -> str:
    """The rows that were not compared, the first of them with their errors; rows count from 1 here."""
    first = [f"row {f.row + 1}: {f.ours or f.reference}" for f in drift.failures[:count]]
    more = f" … and {len(drift.failures) - count:,} more" if len(drift.failures) > count else ""
    lost = f", {drift.lost:,} of them answered by the reference" if drift.lost else ""
    return f"{len(drift.failures):,} of {drift.rows:,} rows not compared{lost}. " + " ".join(first) + more
