"""Output tables: CSV, JSON Lines and Parquet, whole or not at all.

A file is written under a hidden name beside its target, synced and renamed at the end: no half-written table is ever
seen under the target's name. stdout, pipes and devices get each chunk as soon as it is scored.

Rows come as ``Chunk.rows`` and are joined with the answers' columns. Cells of CSV, and of Parquet made from text
formats, are strings: what was not a string in the input is its JSON. A lone surrogate, which JSON can hold and UTF-8
cannot, is written as its escape.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from slant.errors import TableError
from slant.files import replacing
from slant.tables.read import STANDARD, Row

ROW_GROUP = 64 << 20  # bytes of Arrow data gathered for one Parquet row group
QUOTED = re.compile(r'[",\r\n]|^\s|\s$')  # csv.writer leaves a lone \r bare, which readers take for a row's end

Answers = Mapping[str, Sequence[object]]


class Writer(Protocol):
    """Writes and flushes the rows of one chunk after another."""

    def write(self, rows: list[Row] | pa.RecordBatch, answers: Answers) -> None: ...


def check_target(target: str | Path, source: str | Path, *, force: bool) -> None:
    """Raise TableError if ``target`` is the input, exists (unless ``force``) or has no folder to be written in."""
    path = Path(target)
    if str(target) == STANDARD:
        return
    if path.is_dir():
        raise TableError(f"{target} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise TableError(f"the folder {path.parent} does not exist.")
    if not path.is_file():
        return
    if str(source) != STANDARD and Path(source).exists() and path.samefile(source):
        raise TableError(f"{target} is the input itself; name another output.")
    if not force:
        raise TableError(f"{target} exists; name another output, or replace it with --force.")


@contextmanager
def open_writer(target: str | Path, format: str, columns: pa.Schema, answers: pa.Schema) -> Iterator[Writer]:
    """A writer for ``columns`` of the input joined with ``answers``; leaving it with an exception leaves no file.

    Raises OSError if the disk is full or the folder is not writable.
    """
    try:
        with _open_bytes(target) as file, _writer(file, format, columns, answers) as writer:
            yield writer
    except OSError as error:
        # A write to an open file fails without saying to which.
        if error.filename is None:
            error.filename = "stdout" if str(target) == STANDARD else str(target)
        raise


@contextmanager
def _writer(file: IO[bytes], format: str, columns: pa.Schema, answers: pa.Schema) -> Iterator[Writer]:
    if format == "jsonl":
        yield JsonWriter(file, answers)
    elif format == "csv":
        yield CsvWriter(file, columns, answers)
    else:
        writer = ParquetWriter(file, columns, answers)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


@contextmanager
def _open_bytes(target: str | Path) -> Iterator[IO[bytes]]:
    if str(target) == STANDARD:
        # A duplicate, so that closing it also after an error leaves nothing for Python's own stdout to flush.
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as file:
            yield file
        return
    with replacing(target) as file:
        yield file


class JsonWriter:
    """One object a line: the input's keys as they were, then the answers'."""

    def __init__(self, file: IO[bytes], answers: pa.Schema) -> None:
        self._file, self._names = file, answers.names

    def write(self, rows: list[Row] | pa.RecordBatch, answers: Answers) -> None:
        taken = set(self._names)
        lines = []
        for row, answer in zip(_rows(rows), zip(*answers.values(), strict=True), strict=True):
            if clash := taken & row.keys():
                raise TableError(f"a row already has the key {min(clash)!r}; name the answers apart with --prefix.")
            row = {**row, **dict(zip(self._names, answer, strict=True))}
            lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
        self._file.write(_encode("".join(line + "\n" for line in lines)))
        self._file.flush()


class CsvWriter:
    """Comma-separated, quoted where a cell needs it, rows ended by a newline; null is an empty cell."""

    def __init__(self, file: IO[bytes], columns: pa.Schema, answers: pa.Schema) -> None:
        self._file, self._names = file, columns.names
        self._write([[*columns.names, *answers.names]])

    def write(self, rows: list[Row] | pa.RecordBatch, answers: Answers) -> None:
        inputs = ([row.get(name) for name in self._names] for row in _rows(rows))
        self._write([*row, *answer] for row, answer in zip(inputs, zip(*answers.values(), strict=True), strict=True))

    def _write(self, rows: Iterator[list[object]] | list[list[object]]) -> None:
        self._file.write(_encode("".join(",".join(map(_cell, row)) + "\n" for row in rows)))
        self._file.flush()


class ParquetWriter:
    """The input's columns with their types (strings, if it came as text), then the answers with theirs."""

    def __init__(self, file: IO[bytes], columns: pa.Schema, answers: pa.Schema) -> None:
        self._file, self._columns, self._answers = file, columns, answers
        self._schema = pa.schema([*columns, *answers], metadata=columns.metadata)
        self._writer = pq.ParquetWriter(file, self._schema)
        self._held: list[pa.RecordBatch] = []
        self._size = 0

    def write(self, rows: list[Row] | pa.RecordBatch, answers: Answers) -> None:
        if isinstance(rows, list):
            arrays = [pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in self._columns.names]
        else:
            arrays = rows.columns
        arrays += [pa.array(values, self._answers.field(name).type) for name, values in answers.items()]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._held.append(batch)
        self._size += batch.nbytes
        if self._size > ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
        self._held, self._size = [], 0

    def close(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Keep pyarrow from ending the file properly when it collects its writer."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError, ValueError):
            self._writer.close()
        self._writer.is_open = False


def _rows(rows: list[Row] | pa.RecordBatch) -> list[Row]:
    """Rows of plain JSON values."""
    if isinstance(rows, list):
        return rows
    columns = {name: _values(column) for name, column in zip(rows.schema.names, rows.columns, strict=True)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.Array) -> list[object]:
    # Arrow prints nanoseconds, which Python's own times cannot hold.
    if pa.types.is_temporal(column.type):
        return column.cast(pa.string()).to_pylist()
    return [_plain(value) for value in column.to_pylist()]


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


def _text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else _encode(text).decode()


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else _text(value) or ""
    return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
