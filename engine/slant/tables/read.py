"""Input tables: CSV, JSON Lines, Parquet and plain lines, read as chunks of rows in constant memory.

What cannot be read as a whole is a TableError; what is wrong with one row becomes that row's error, and the row keeps
its place. A line that cannot be taken apart (broken quotes, broken JSON) is kept whole in the text column.

CSV is read by the standard library's parser: pyarrow's drops a row of the wrong width without saying where it stood,
and gives up at a quote that never closes. All CSV cells stay strings, so "007" and "1e5" come out as they went in.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from slant.errors import TableError

STANDARD = "-"  # the path that means stdin or stdout
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "lines"}
LINE_LIMIT = 64 << 20  # characters; a longer line is not a text, and reading it would not be constant memory
RECORD_LIMIT = 16 << 20  # characters a quoted CSV field may span before its quote counts as never closed

Row = dict[str, object]
Record = tuple[Row, object, str | None]  # the row, its text, and what is wrong with it


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows: dicts of plain values, or the record batch of a Parquet file.

    A row with an error could not be read; its text is None. ``end`` is how much of ``Table.total`` is read with it.
    """

    rows: list[Row] | pa.RecordBatch
    texts: list[object]
    errors: list[str | None]
    end: int


@dataclass(frozen=True, slots=True)
class Table:
    """An open input. ``total`` counts bytes (Parquet: rows) and is None for a pipe."""

    schema: pa.Schema
    total: int | None
    chunks: Iterator[Chunk]


def format_of(path: str | Path, given: str | None, default: str) -> str:
    """The format given, else by the ending of ``path``, else (stdin, stdout) the default. Raises TableError."""
    if given:
        return given
    if str(path) == STANDARD:
        return default
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise TableError(f"{path}: the ending {ending!r} is none of {', '.join(ENDINGS)}; name the format.")
    return ENDINGS[ending]


@contextmanager
def open_table(
    source: str | Path, format: str, *, text_column: str, encoding: str, window: int, fixed_columns: bool
) -> Iterator[Table]:
    """Open ``source`` (``-`` is stdin) and read as far as its columns.

    ``window`` is the number of rows in a chunk. With ``fixed_columns`` the output cannot take columns that JSON Lines
    first show after the first chunk: such a row gets an error. Raises TableError for a file that is missing, empty,
    damaged, of another encoding or without the text column.
    """
    name = "stdin" if str(source) == STANDARD else str(source)
    with _open(source) as stream:
        if format == "parquet":
            yield _parquet(stream, name, text_column, window)
            return
        lines = _Lines(stream, name, encoding, newline="" if format == "csv" else "\n")
        if format == "csv":
            columns, records = _csv(lines, name, text_column)
        elif format == "jsonl":
            columns, records = _jsonl(lines, name, text_column, window, fixed_columns)
        else:
            columns, records = _plain(lines, name, text_column)
        try:
            schema = pa.schema([(column, pa.string()) for column in columns])
        except UnicodeEncodeError as error:
            raise TableError(f"{name}: the column name {error.object!r} is not valid Unicode.") from error
        yield Table(schema, lines.total, _chunks(records, window, lines.position))


def _open(source: str | Path) -> IO[bytes]:
    if str(source) == STANDARD:
        return os.fdopen(0, "rb", closefd=False)  # Python's own stdin stays open
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise TableError(f"{source} cannot be read: {error.strerror}.") from error


class _Lines(Iterator[str]):
    """The lines of a byte stream with their ends, decoded strictly; ``number`` is that of the last line given."""

    def __init__(self, stream: IO[bytes], name: str, encoding: str, newline: str) -> None:
        try:
            # utf-8-sig is UTF-8 that forgives the byte order mark spreadsheets write.
            codec = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
            self._text = io.TextIOWrapper(stream, encoding=codec, newline=newline)
        except LookupError:
            raise TableError(f"{encoding!r} is no encoding Python knows.") from None
        self._stream, self._name, self._encoding = stream, name, encoding
        self.number = 0
        self.total = os.fstat(stream.fileno()).st_size if stream.seekable() else None

    def position(self) -> int:
        """Bytes read so far, 0 where nobody can know the total."""
        return 0 if self.total is None else self._stream.tell()

    def __next__(self) -> str:
        try:
            line = self._text.readline(LINE_LIMIT)
        except UnicodeError as error:
            raise TableError(self._wrong_encoding(error)) from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == LINE_LIMIT:
            raise TableError(f"{self._name}: line {self.number} is longer than {LINE_LIMIT} characters; is it a table?")
        return line

    def _wrong_encoding(self, error: UnicodeError) -> str:
        line = self.number + 1
        hint = "name the file's encoding with --encoding, for example --encoding latin-1 or utf-16."
        if not isinstance(error, UnicodeDecodeError):
            return f"{self._name}: line {line} is not {self._encoding}: {error}; {hint}"
        # The lines before the bad byte in this block of bytes were not given out yet.
        line += error.object[: error.start].count(b"\n")
        byte = f"byte 0x{error.object[error.start]:02x}"
        if self.total is not None:
            byte += f" at offset {self._stream.tell() - len(error.object) + error.start}"
        return f"{self._name}: line {line} is not {self._encoding} ({byte}); {hint}"


def _chunks(records: Iterator[Record], window: int, position: Callable[[], int]) -> Iterator[Chunk]:
    while block := list(islice(records, window)):
        rows, texts, errors = (list(column) for column in zip(*block, strict=True))
        yield Chunk(rows, texts, errors, position())


def _plain(lines: _Lines, name: str, column: str) -> tuple[list[str], Iterator[Record]]:
    first = next(lines, None)
    if first is None:
        raise TableError(f"{name} is empty.")
    texts = (line.removesuffix("\n").removesuffix("\r") for line in chain([first], lines))
    return [column], (({column: text}, text, None) for text in texts)


def _csv(lines: _Lines, name: str, column: str) -> tuple[list[str], Iterator[Record]]:
    records = _csv_records(lines)
    number, header, error = next(records, (0, [], None))
    if not number:
        raise TableError(f"{name} is empty.")
    if error:
        raise TableError(f"{name}: the header cannot be read. {error}")
    _check_columns(name, header, column)
    return header, (_csv_row(record, header, column) for record in records)


def _csv_row(record: tuple[int, list[str], str | None], header: list[str], column: str) -> Record:
    number, fields, error = record
    if error:
        return {column: fields[0]}, None, error
    row: Row = dict(zip(header, fields, strict=False))
    if len(fields) != len(header):
        return row, None, f"Line {number}: fields: {len(fields)}, columns of the header: {len(header)}."
    return row, row[column], None


def _csv_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, fields and error of each record. Reading goes on after a line with broken quotes."""
    waiting: deque[str] = deque()  # lines that a broken record had swallowed
    taken: list[str] = []  # lines of the record being read

    def feed() -> Iterator[str]:
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            taken.append(line)
            yield line

    csv.field_size_limit(RECORD_LIMIT)  # the parser knows only one limit for the whole process
    reader = csv.reader(feed(), strict=True)
    number = 1
    while True:
        number += len(taken)
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            never_closed = "unexpected end" in str(error) or "field limit" in str(error)
            reason = "a quote opens and never closes" if never_closed else f"broken quotes: {error}"
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), strict=True)
            yield number, [taken[0].rstrip("\r\n")], f"Line {number}: {reason}."
        else:
            if fields:  # an empty line is no record
                yield number, fields, None


def _jsonl(
    lines: _Lines, name: str, column: str, window: int, fixed_columns: bool
) -> tuple[list[str], Iterator[Record]]:
    records = (_json_row(line, number, column) for number, line in enumerate(lines, 1))
    first = list(islice(records, window))
    if not first:
        raise TableError(f"{name} is empty.")
    columns = list(dict.fromkeys(key for row, _, error in first if row.keys() != {column} or not error for key in row))
    if not columns:
        raise TableError(f"{name} is not JSON Lines. {first[0][2]}")
    _check_columns(name, columns, column)
    everything = chain(first, records)
    if not fixed_columns:
        return columns, everything
    known = set(columns)
    return columns, (_without_column(record, known) if record[0].keys() - known else record for record in everything)


def _json_row(line: str, number: int, column: str) -> Record:
    try:
        # NaN, Infinity and numbers beyond a double are not JSON's: they become null.
        row = json.loads(line, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return {column: line.rstrip("\r\n")}, None, f"Line {number} is not JSON: {reason}."
    if not isinstance(row, dict):
        return {column: line.rstrip("\r\n")}, None, f"Line {number} is not a JSON object."
    if column not in row:
        return row, None, f"Line {number} has no {column!r}."
    return row, row[column], None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _without_column(record: Record, known: set[str]) -> Record:
    row, _, error = record
    late = ", ".join(sorted(row.keys() - known))
    kept = {key: value for key, value in row.items() if key in known}
    return kept, None, error or f"No column for {late}, which the first rows do not have; write jsonl to keep it."


def _parquet(stream: IO[bytes], name: str, column: str, window: int) -> Table:
    if not stream.seekable():
        raise TableError(
            f"{name}: Parquet is read from its end, so it cannot come through a pipe; give the file's name."
        )
    try:
        # By default the whole file is read ahead, and without a buffer size a row group's whole columns.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{name} is not a readable Parquet file: {error}") from error
    schema = file.schema_arrow
    _check_columns(name, schema.names, column)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise TableError(f"{name}: the column {column!r} holds {kind}, not text.")

    def chunks() -> Iterator[Chunk]:
        end = 0
        try:
            for batch in file.iter_batches(batch_size=window):
                end += len(batch)
                yield Chunk(batch, batch.column(column).to_pylist(), [None] * len(batch), end)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise TableError(f"{name} is damaged after row {end}: {error}") from error

    return Table(schema, file.metadata.num_rows, chunks())


def _check_columns(name: str, columns: list[str], column: str) -> None:
    listed = ", ".join(columns)
    if column not in columns:
        raise TableError(f"{name} has no column {column!r}; its columns are: {listed}; choose one with --text-column.")
    if len(set(columns)) < len(columns):
        raise TableError(f"{name} has two columns of the same name: {listed}; rename one.")
