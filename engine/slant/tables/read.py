"""Input tables: CSV, JSON Lines, Parquet and plain lines, read as chunks of rows in constant memory.

What cannot be read as a whole is a TableError; what is wrong with one row becomes that row's error, and the row keeps
its place. A format stands in a module of its own, and is named here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO

import pyarrow as pa

from slant.errors import TableError
from slant.tables.csv_format import read_csv
from slant.tables.jsonl_format import read_jsonl
from slant.tables.parquet_format import read_parquet
from slant.tables.rows import Chunk, InputTable, Record

STANDARD = "-"  # the path that means stdin or stdout
LINE_LIMIT = 64 << 20  # characters; a longer line is not a text, and reading it would not be constant memory
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "lines"}


def format_of(path: str | Path, given: str | None, default: str, option: str = "--format") -> str:
    """The format given, else by the ending of ``path``, else (stdin, stdout) the default.

    Raises TableError, which names the ``option`` that gives it.
    """
    if given:
        return given
    if str(path) == STANDARD:
        return default
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise TableError(
            f"{path}: the ending {ending!r} is none of {', '.join(ENDINGS)}; rename the file, or give {option}."
        )
    return ENDINGS[ending]


@contextmanager
def open_table(
    source: str | Path, input_format: str | None, *, text_column: str | None, encoding: str, window: int
) -> Iterator[InputTable]:
    """Open ``source`` (``-`` is stdin) and read as far as its columns.

    input_format: None for what the file's ending says; stdin has lines then. text_column: None to read no texts.
    window: the number of rows in a chunk. Raises TableError for a file that is missing, empty, damaged, of another
    encoding or without the text column.
    """
    format = format_of(source, input_format, "lines")
    name = "stdin" if str(source) == STANDARD else str(source)
    with _open(source) as stream:
        if format == "parquet":
            yield read_parquet(stream, name, text_column, window)
            return
        read = _Lines(stream, name, encoding, newline="" if format == "csv" else "\n")
        first = next(read, None)
        if first is None:
            raise TableError(f"{name} is empty.")
        lines = chain([first], read)
        if format == "csv":
            columns, records = read_csv(lines, name, text_column)
        elif format == "jsonl":
            columns, records = read_jsonl(lines, name, text_column, window)
        else:
            column = text_column or "text"
            texts = (line.removesuffix("\n").removesuffix("\r") for line in lines)
            columns, records = [column], (({column: text}, text, None) for text in texts)
        try:
            schema = pa.schema([(column, pa.string()) for column in columns])
        except UnicodeEncodeError as error:
            raise TableError(f"{name}: the column name {error.object!r} is not valid Unicode.") from error
        yield InputTable(schema, read.total, _chunks(records, window, read.position))


def _chunks(records: Iterator[Record], size: int, position: Callable[[], int]) -> Iterator[Chunk]:
    while block := list(islice(records, size)):
        rows, texts, errors = (list(column) for column in zip(*block, strict=True))
        yield Chunk(rows, texts, errors, position())


def _open(source: str | Path) -> IO[bytes]:
    if str(source) == STANDARD:
        return os.fdopen(0, "rb", closefd=False)  # Python's own stdin stays open
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise TableError(f"{source} cannot be read: {error.strerror}.") from error


class _Lines(Iterator[str]):
    """The lines of a byte stream with their ends. ``total`` is its size in bytes, None for a pipe.

    Iterating raises TableError for bytes of another encoding, and for a line beyond ``LINE_LIMIT``.
    """

    def __init__(self, stream: IO[bytes], name: str, encoding: str, newline: str) -> None:
        try:
            # utf-8-sig is UTF-8 that forgives the byte order mark spreadsheets write.
            codec = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
            self._text = io.TextIOWrapper(stream, encoding=codec, newline=newline)
        except LookupError:
            raise TableError(f"{encoding!r} is no encoding Python knows.") from None
        self._stream, self._name, self._encoding = stream, name, encoding
        self._number = 0
        self.total = os.fstat(stream.fileno()).st_size if stream.seekable() else None

    def position(self) -> int:
        """Bytes read so far, 0 for a pipe."""
        return 0 if self.total is None else self._stream.tell()

    def __next__(self) -> str:
        try:
            line = self._text.readline(LINE_LIMIT)
        except UnicodeError as error:
            number, where = self._number + 1, f": {error}"
            if isinstance(error, UnicodeDecodeError):
                # The lines before the bad byte in this block of bytes were not given out yet.
                number += error.object[: error.start].count(b"\n")
                where = f" (byte 0x{error.object[error.start]:02x}"
                if self.total is not None:
                    where += f" at offset {self._stream.tell() - len(error.object) + error.start}"
                where += ")"
            raise TableError(
                f"{self._name}: line {number} is not {self._encoding}{where}; convert it to UTF-8, or name its "
                "encoding where the command has --encoding: latin-1, utf-16."
            ) from error
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) == LINE_LIMIT:
            raise TableError(
                f"{self._name}: line {self._number} is longer than {LINE_LIMIT} characters; is it a table?"
            )
        return line
