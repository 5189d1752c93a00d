"""JSON Lines: one object a line, whose keys may differ from line to line.

Its columns are the keys of the first chunk of rows. NaN, infinity and numbers beyond a double, which JSON does not
have, become null. An object with one key twice is not taken apart, since one of the values would be lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain, islice

from slant.errors import TableError
from slant.tables.rows import Record, Row, as_text, check_columns, unreadable


def read_jsonl(lines: Iterator[str], name: str, column: str | None, window: int) -> tuple[list[str], Iterator[Record]]:
    """The keys of the first ``window`` rows, and all records. Raises TableError if they hold no object, or no text."""
    records = (_record(line, number, column) for number, line in enumerate(lines, 1))
    first = list(islice(records, window))
    rows = (row for row, _, error in first if not error or row.keys() != {column})  # not of unreadable lines
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key == as_text(key)]
    if not columns:
        raise TableError(f"{name} is not JSON Lines. {first[0][2]}")
    check_columns(name, columns, column)
    return columns, chain(first, records)


def json_line(row: Row) -> str:
    """A row, ended by a newline."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _record(line: str, number: int, column: str | None) -> Record:
    try:
        row = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return unreadable(line, column, f"Line {number} is not JSON: {reason}.")
    if not isinstance(row, dict):
        return unreadable(line, column, f"Line {number} is not a JSON object.")
    if bad := [key for key in row if key != as_text(key)]:
        return row, None, f"Line {number} has a key that is not valid Unicode: {', '.join(map(repr, bad))}."
    if column is not None and column not in row:
        return row, None, f"Line {number} has no {column!r}."
    return row, row[column] if column is not None else None, None


def _object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=lambda _: None,
    parse_float=lambda digits: number if math.isfinite(number := float(digits)) else None,
)
