"""What all formats share: an open input, its rows in chunks, and values as plain JSON or as text.

Formats without types (CSV, lines) and with JSON's give rows as dicts; Parquet gives Arrow record batches, which reach a
Parquet output untouched and become plain values for any other.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

Row = dict[str, object]
Record = tuple[Row, object, str | None]  # the row, its text, and what is wrong with it


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows. One with an error could not be read, and its text is None.

    ``end`` is how much of ``InputTable.total`` is read with the chunk. ``decoded`` names a column of bytes that holds
    the texts: they are written as text, not in base 64.
    """

    rows: list[Row] | pa.RecordBatch
    texts: list[object]
    errors: list[str | None]
    end: int
    decoded: str | None = None

    def cut(self, rows: int) -> tuple[Chunk, Chunk]:
        """The first ``rows`` rows, and the others."""
        if rows == len(self.errors):
            return self, Chunk([], [], [], self.end)
        first, rest = (
            (self.rows.slice(0, rows), self.rows.slice(rows))
            if isinstance(self.rows, pa.RecordBatch)
            else (self.rows[:rows], self.rows[rows:])
        )
        return (
            Chunk(first, self.texts[:rows], self.errors[:rows], self.end, self.decoded),
            Chunk(rest, self.texts[rows:], self.errors[rows:], self.end, self.decoded) if rows else self,
        )

    def column(self, name: str) -> list[object]:
        """A column's values as JSON has them; None where a row, or the whole file, lacks it."""
        if isinstance(self.rows, pa.RecordBatch):
            if name not in self.rows.schema.names:
                return [None] * len(self.errors)
            if name == self.decoded:
                values = self.rows.column(name).to_pylist()
                return [None if value is None else value.decode(errors="backslashreplace") for value in values]
            return plain(self.rows.column(name))
        return [row.get(name) for row in self.rows]

    def dicts(self) -> list[Row]:
        """The rows, of values as JSON has them."""
        if isinstance(self.rows, list):
            return self.rows
        names = self.rows.schema.names
        return [dict(zip(names, row, strict=True)) for row in zip(*map(self.column, names), strict=True)]


@dataclass(frozen=True, slots=True)
class InputTable:
    """An open input. ``total`` counts bytes (Parquet: rows) and is None for a pipe.

    ``skip``, called before the first chunk is taken, passes over at most so many rows without reading them, and says
    how many it did.
    """

    schema: pa.Schema
    total: int | None
    chunks: Iterator[Chunk]
    skip: Callable[[int], int] = lambda rows: 0


def unreadable(line: str, column: str | None, error: str) -> Record:
    """The record of a line that cannot be taken apart: it is kept whole in the text column."""
    return {} if column is None else {column: line.rstrip("\r\n")}, None, error


def plain(column: pa.Array) -> list[object]:
    """Arrow values as JSON has them: times and decimals as text, bytes in base 64, NaN and infinity as null.

    Bytes of a string that are not UTF-8 are written as escapes, and what Python cannot hold as Arrow prints it.
    """
    kind = column.type
    printed = pa.types.is_temporal(kind)  # nanoseconds too, which Python's own times cannot hold
    try:
        values = (column.cast(pa.string()) if printed else column).to_pylist()
    except (ValueError, OverflowError, NotImplementedError):  # pyarrow's own errors are among these
        if len(column) != 1:
            return [value for row in range(len(column)) for value in plain(column.slice(row, 1))]
        with suppress(ValueError, OverflowError, NotImplementedError):
            return [_plain(column.to_pylist()[0])]
        if printed or pa.types.is_nested(kind):
            return [column.to_string(skip_new_lines=True)]
        return [column.cast(pa.binary()).to_pylist()[0].decode(errors="backslashreplace")]
    return [_plain(value) for value in values]


def _plain(value: object) -> object:
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def as_text(value: object) -> str | None:
    """A value as a cell of text: a string as it is, anything else as JSON; None stays.

    A lone surrogate, which JSON can hold and UTF-8 cannot, is written as its escape.
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else encode(text).decode()


def encode(text: str) -> bytes:
    """UTF-8, with lone surrogates as escapes, which in JSON mean the same."""
    return text.encode("utf-8", "backslashreplace")
