"""What the GPU suite does with a case: time it beside its peers, make rows for the result file and the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.table import Table

from gpu.case import Case
from gpu.timing import Arguments, Clock, Limits, Sample, input_sets, turns
from harness.rows import percentiles

OURS = "slant"


@dataclass(frozen=True)
class Measured:
    """Seconds of one call by contender, ours first, and why a peer has none."""

    case: Case
    samples: dict[str, list[float]]
    captured: dict[str, bool]
    sets: int
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A device with its limits, on which cases are timed for ``seconds`` a contender."""

    clock: Clock
    device: torch.device
    limits: Limits
    cache: int  # bytes of L2
    seconds: float

    def measure(self, case: Case, peers: bool = True) -> Measured:
        sets = input_sets(partial(case.make, self.device), case.bytes, self.cache)
        loops: dict[str, Sample] = {OURS: self.clock.loop(case.run, sets, captured=True)}
        captured, reasons = {OURS: True}, {}
        for peer in case.peers if peers else ():
            if reason := peer.missing():
                reasons[peer.name] = reason
                continue
            try:
                theirs: list[Arguments] = [peer.prepare(*arguments) for arguments in sets]
                loops[peer.name] = self.clock.loop(peer.run, theirs, peer.captured)
            except Exception as error:  # another library's failure is its own; ours would end the run
                reasons[peer.name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            captured[peer.name] = peer.captured
        return Measured(case, turns(loops, self.seconds), captured, len(sets), reasons)

    def rows(self, measured: Measured) -> Iterator[dict[str, Any]]:
        """One row a contender, for the result file."""
        case, limits = measured.case, self.limits
        for name, samples in measured.samples.items():
            seconds = median(samples)
            yield {
                "op": case.op,
                "shape": case.label,
                "by": name,
                "microseconds": percentiles([1e6 * sample for sample in samples]),
                "bytes": case.bytes,
                "flops": case.flops,
                "bytes_per_s": case.bytes / seconds,
                "flops_per_s": case.flops / seconds,
                "bound_by": limits.binds(case.bytes, case.flops),
                "of_limit": round(limits.floor(case.bytes, case.flops) / seconds, 4),
                "cuda_graph": measured.captured[name],
                "samples": len(samples),
                "input_sets": measured.sets,
                "copy_bytes_per_s": limits.bytes_per_s,
                "matmul_flops_per_s": limits.flops_per_s,
            }


def table() -> Table:
    columns = ("op", "shape", "by", "µs", "p20 - p80", "GB/s", "TFLOP/s", "of the limit", "")
    shown = Table(*columns, title="of the limit: the least time for the bytes or the FLOPs, what binds, over the time")
    for column in shown.columns[3:8]:
        column.justify = "right"
    return shown


def add(shown: Table, rows: list[dict[str, Any]], reasons: dict[str, str]) -> None:
    """A line for each contender, and one for each peer that could not run."""
    for row in rows:
        time, ours = row["microseconds"], rows[0]["microseconds"]
        note = "" if row["cuda_graph"] else " no graph"
        if row is not rows[0]:
            note = _text(time["p50"] / ours["p50"], ".2f", " x ours") + note
        shown.add_row(
            row["op"], row["shape"], row["by"],
            _text(time["p50"], ".1f"), _text(time["p20"], ".1f") + " - " + _text(time["p80"], ".1f"),
            _text(row["bytes_per_s"] / 1e9, ".0f"), _text(row["flops_per_s"] / 1e12, ".1f") if row["flops"] else "",
            _text(row["of_limit"], ".0%", f" {row['bound_by']}"), note.strip(),
        )  # fmt: skip
    for name, reason in reasons.items():
        shown.add_row(rows[0]["op"], rows[0]["shape"], name, "", "", "", "", "", reason)


def _text(value: float, form: str, unit: str = "") -> str:
    """Nothing for what was not measured."""
    return "" if math.isnan(value) else format(value, form) + unit
