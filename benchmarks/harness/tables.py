"""Rows as tables: Markdown for files, rich tables for the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from harness.rows import Row

Column = str | Callable[[Row], str]
"""``KEY``, ``KEY.PART``, ``KEY:FORMAT`` or ``KEY:FORMAT/UNIT``, such as "seconds.p50:.1f/1e-3"; or a function."""


def markdown(head: Sequence[str], body: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table; with ``numbers`` all columns but the first are aligned to the right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])


def rich_table(rows: Iterable[Row], columns: Mapping[str, Column], title: str = "") -> Table:
    """A line for each row; a column gives the text of a row's cell."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(cell(row, column) for column in columns.values()))
    return table


def cell(row: Row, column: Column) -> str:
    """The text of a cell; empty where the row's value is missing, None or NaN."""
    if not isinstance(column, str):
        return column(row)
    found = re.fullmatch(r"(\w+)(?:\.(\w+))?(?::([^/]*))?(?:/(\S+))?", column)
    assert found, column
    key, part, form, unit = found.groups()
    value: Any = row.get(key)
    value = value.get(part) if part and isinstance(value, dict) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return format(value / float(unit) if unit else value, form) if form else str(value)


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """The values of a key in the order in which they first appear."""
    return list(dict.fromkeys(row[key] for row in rows))


def interval(values: Sequence[float | None], sign: str = "") -> str:
    """A figure and its interval: "0.634 (0.533 to 0.742)"."""
    value, low, high = values
    bounds = "" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{value:{sign}.3f}{bounds}"
