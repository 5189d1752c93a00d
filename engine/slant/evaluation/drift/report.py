"""A drift report: its data, as a table on the terminal, and as JSON. The page is made in ``page``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from slant.artifact import certificate as certificates
from slant.artifact.certificate import Certificate
from slant.artifact.drift_record import Drift, DriftFigures, GoldComparison, Slice
from slant.artifact.records import to_plain
from slant.evaluation.drift.budgets import Budgets, Exceeded, exceeded
from slant.evaluation.drift.figures import RowDrift
from slant.evaluation.metrics import NO_LABEL, Labels
from slant.evaluation.words import beginning, bracketed, number, percent, points, signed

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
    """All that a report shows. ``rows`` are the compared rows; ``texts`` and ``gold`` are of all rows."""

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
                    tuple(map(float, rows.p[i])),
                    tuple(map(float, rows.q[i])),
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


FIGURES: tuple[tuple[str, Callable[[DriftFigures], str]], ...] = (
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


def gold_rows(gold: GoldComparison) -> list[tuple[str, str, str, str]]:
    """Name, the reference's figure, ours, and the difference with its 95 % interval."""
    a, b = gold.reference, gold.ours
    return [
        ("accuracy", percent(a.accuracy), percent(b.accuracy), bracketed(points, *astuple(gold.accuracy)) + " points"),
        ("MAE, classes", f"{a.mae:.4f}", f"{b.mae:.4f}", bracketed(signed, *astuple(gold.mae))),
        ("macro-F1", f"{a.macro_f1:.4f}", f"{b.macro_f1:.4f}", bracketed(signed, *astuple(gold.macro_f1))),
        ("ECE", f"{a.calibration.ece:.4f}", f"{b.calibration.ece:.4f}", ""),
    ]


def lengths(group: Slice) -> str:
    """The tokens of a length bucket: "1-128"."""
    return f"{group.low}–{group.high}" if group.high else f"{group.low}+"


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
    groups = [drift.overall, *(drift.buckets if len(drift.buckets) > 1 else ())]
    names = ["all", *map(lengths, groups[1:])]
    table = Table(Column("tokens"), *(Column(name, justify="right", no_wrap=True) for name in names), padding=(0, 1))
    for name, figure in FIGURES:
        table.add_row(name, *(figure(group.figures) for group in groups))
    parts: list[RenderableType] = [Text(f"reference: {reference}"), Text(f"ours:      {ours}"), Text(), table]
    if gold := drift.overall.gold:
        judged = Table(f"{gold.rows:,} gold labels", *(_right(n) for n in ("reference", "ours", "difference, 95 %")))
        for line in gold_rows(gold):
            judged.add_row(*line)
        parts += [Text(), judged]
    if drift.failures:
        parts += [Text(), Text(failures(drift), style="yellow")]
    fine, sentence = verdict(report)
    return Stack(*parts, Text(), Text(sentence, style="bold green" if fine else "bold red"))


def failures(drift: Drift, count: int = 5) -> str:
    """The rows that were not compared, the first of them with their errors; rows count from 1 here."""
    first = [f"row {f.row + 1}: {f.ours or f.reference}" for f in drift.failures[:count]]
    more = f" … and {len(drift.failures) - count:,} more" if len(drift.failures) > count else ""
    lost = f", {drift.lost:,} of them answered by the reference" if drift.lost else ""
    return f"{len(drift.failures):,} of {drift.rows:,} rows not compared{lost}. " + " ".join(first) + more


def _right(name: str) -> Column:
    return Column(name, justify="right")
