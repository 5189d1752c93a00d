"""The tables that the whole-model part of the GPU suite prints, one for each measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]


def _number(key: str, form: str, scale: float = 1.0, part: str | None = None) -> Callable[[Row], str]:
    """Formats a field, or a part of it; nothing for what was not measured."""

    def text(row: Row) -> str:
        value = row.get(key)
        value = value.get(part) if part and isinstance(value, dict) else value
        return "" if value is None or math.isnan(value) else format(value * scale, form)

    return text


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(key) is None else str(row[key])


_RATES: Columns = {
    "texts": _word("texts"),
    "tokens": _word("tokens"),
    "texts/s": _number("texts_per_s", ".1f"),
    "tokens/s": _number("tokens_per_s", ".0f"),
    "of the matmul": _number("of_matmul", ".0%"),
}
_TABLES: dict[str, tuple[str, Columns]] = {
    "memory": (
        "live bytes in GB, of texts of the most tokens",
        {
            "tokens": _word("tokens"),
            "held": _number("held_bytes", ".3f", 1e-9),
            "predicted held": _number("predicted_held_bytes", ".3f", 1e-9),
            "peak": _number("peak_bytes", ".3f", 1e-9),
            "predicted peak": _number("predicted_peak_bytes", ".3f", 1e-9),
            "ratio": _number("measured_over_predicted", ".3f"),
            "aim": _number("aim_bytes", ".1f", 1e-9),
            "loading": _number("loading_peak_bytes", ".3f", 1e-9),
        },
    ),
    "latency": (
        "one text, from ids to probabilities, in ms",
        {
            "tokens": _word("tokens"),
            "by": _word("by"),
            "p50": _number("milliseconds", ".2f", part="p50"),
            "p95": _number("milliseconds", ".2f", part="p95"),
            "p99": _number("milliseconds", ".2f", part="p99"),
            "requests": _word("requests"),
            "equal": _word("equals_eager"),
            "of the matmul": _number("of_matmul", ".0%"),
        },
    ),
    "throughput": (
        "all texts of a mixture in one call",
        {"mixture": _word("mixture"), "costs": _word("costs")} | _RATES | {"real / computed": _number("fill", ".0%")},
    ),
    "waterfall": (
        "one batch by op",
        {
            "batch": _word("batch"),
            "op": _word("op"),
            "calls": _word("calls"),
            "µs": _number("microseconds", ".0f"),
            "limit µs": _number("limit_microseconds", ".0f"),
            "share": _number("share", ".0%"),
            "of the limit": _number("of_limit", ".0%"),
        },
    ),
    "peers": (
        "the same texts in turn",
        {"mixture": _word("mixture"), "by": _word("by")} | _RATES | {"": _word("reason")},
    ),
    "cold start": (
        "a new process to its first answer, in s",
        {"kernels": _word("kernels")}
        | {
            part: _number("seconds", ".2f", part=part)
            for part in ("import", "device", "load", "compile", "capture", "answer")
        }
        | {"total": _number("total_seconds", ".2f")},
    ),
}


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """One table for each measure of which there are rows."""
    for measure, (title, columns) in _TABLES.items():
        mine = [row for row in rows if row["measure"] == measure]
        if not mine:
            continue
        table = Table("weights", *columns, title=f"{measure}: {title}")
        for row in mine:
            table.add_row(row["weights"], *(text(row) for text in columns.values()))
        yield table
