"""JSON Lines: one object a line, whose keys may differ from line to line.

Its columns are the keys of the first chunk of rows. NaN, infinity and numbers beyond a double, which JSON does not
have, become null. An object with one key twice is not taken apart, since one of the values would be lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import chain, islice

from slant.errors import TableError
from slant.tables.columns import missing
from slant.tables.rows import Record, Row, as_text, unreadable

BLANK = " \t\r\n"
WHOLE = re.compile(r"\s*(\{\s*|\[\s*(\{.*)?)", re.DOTALL)  # how an array of objects begins, or an object of many lines


def read_jsonl(lines: Iterator[str], name: str, column: str | None, window: int) -> tuple[list[str], Iterator[Record]]:
    """The keys of the first ``window`` rows, and all records. Raises TableError if they hold no object, or no text."""
    filled = _filled(lines)
    begin = next(filled, None)
    if begin is None:
        raise TableError(f"{name} is empty.")
    if WHOLE.fullmatch(begin[1]):
        raise TableError(f"{name} is JSON, but not one object a line; name it .json, or give --input-format json.")
    records = (record(line, "Line", number, column) for number, line in chain([begin], filled))
    first = list(islice(records, window))
    return columns_of(first, f"{name} is not JSON Lines", name, column), chain(first, records)


def _filled(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Number and content of the lines that are not blank; a carriage return ends one too: no JSON value holds it."""
    number = 0
    for line in lines:
        if line.find("\r", 0, -2) < 0:
            number += 1
            if line[0] == "{" or line.strip(BLANK):
                yield number, line
            continue
        for part in line.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            if part.strip(BLANK):
                yield number, part


def columns_of(first: list[Record], otherwise: str, name: str, column: str | None) -> list[str]:
    """The keys of the first rows. Raises TableError, which begins with ``otherwise``, if none is an object."""
    rows = (row for row, _, error in first if not error or row.keys() != {column})  # not of unreadable lines
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key == as_text(key)]
    if not columns:
        raise TableError(f"{otherwise}. {first[0][2] if first else 'It is empty.'}")
    if column is not None and column not in columns:
        raise missing(name, column, columns, "--text-column")
    return columns


def json_line(row: Row) -> str:
    """A row, ended by a newline."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def record(text: str, what: str, number: int, column: str | None) -> Record:
    """The object in a text; errors name its place, such as "Line" 7."""
    try:
        return checked(DECODER.decode(text), what, number, column, text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return unreadable(text, column, f"{what} {number} is not JSON: {reason}.")


def checked(row: object, what: str, number: int, column: str | None, text: str | None = None) -> Record:
    """A decoded value as a row; ``text`` is what it was, by default its JSON."""
    if not isinstance(row, dict):
        text = as_text(row) or "null" if text is None else text
        return unreadable(text, column, f"{what} {number} is not a JSON object.")
    if bad := [key for key in row if not key.isascii() and key != as_text(key)]:
        return row, None, f"{what} {number} has a key that is not valid Unicode: {', '.join(map(repr, bad))}."
    if column is not None and column not in row:
        return row, None, f"{what} {number} has no {column!r}."
    return row, row[column] if column is not None else None, None


def _object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row


DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=lambda _: None,
    parse_float=lambda digits: number if math.isfinite(number := float(digits)) else None,
)
