"""Output tables: CSV, JSON Lines and Parquet, complete or absent.

A file appears under its name when it is complete; stdout, pipes and devices get each window as soon as it is scored.
Cells of CSV, and of Parquet made from text formats, are strings: what was not a string in the input is its JSON.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from slant.errors import TableError
from slant.files import replacing
from slant.tables.csv_format import csv_line
from slant.tables.jsonl_format import json_line
from slant.tables.parquet_format import output_batch, output_schema, parquet_writer
from slant.tables.read import PACKED, STANDARD, format_of
from slant.tables.rows import Chunk, encode

Answers = Sequence[Sequence[object]]  # for each row of a chunk, a value for each added column
WRITTEN = ("csv", "tsv", "jsonl", "parquet")


def written_format(target: str | Path, given: str | None) -> str:
    """The format to write; by default the file's ending, for stdout jsonl. Raises TableError for one only read."""
    format = format_of(target, given, "jsonl", "--output-format", WRITTEN)
    if format == "lines":
        raise TableError("lines hold no scores; write csv, jsonl or parquet.")
    if format not in WRITTEN:
        raise TableError(f"{target}: {format} is read, not written; write {', '.join(WRITTEN)}.")
    if format == "parquet" and Path(target).suffix.lower() in PACKED:
        raise TableError(f"{target}: Parquet is compressed in itself; leave out {Path(target).suffix}.")
    return format


def check_target(target: str | Path, sources: Iterable[str | Path], *, force: bool, dataset: bool = False) -> None:
    """Raise TableError if ``target`` is an input, exists (unless ``force``) or has no folder to be written in.

    A ``dataset`` is a folder, anything else a file.
    """
    path = Path(target)
    if str(target) == STANDARD:
        return
    if path.is_dir() and not dataset:
        raise TableError(f"{target} is a folder; name a file in it.")
    if path.exists() and not path.is_dir() and dataset:
        raise TableError(f"{target} is a file; with --parts name a folder.")
    if not path.parent.is_dir():
        raise TableError(f"the folder {path.parent} does not exist.")
    if not path.is_file():
        return
    for source in sources:
        if str(source) != STANDARD and Path(source).exists() and path.samefile(source):
            raise TableError(f"{target} is the input itself; name another output.")
    if not force:
        raise TableError(f"{target} exists; name another output, or replace it with --force.")


@dataclass(frozen=True, slots=True)
class Output:
    """A table in one of the formats ``WRITTEN``, with the input's ``columns`` and the ``added`` ones.

    Rows become payloads, bytes that can be kept: lines of text, or Arrow batches for Parquet. The table is written from
    payloads, now or later.
    """

    format: str
    columns: pa.Schema
    added: pa.Schema

    def payload(self, rows: Iterable[tuple[Chunk, Answers]]) -> bytes:
        """Chunks of rows with their answers."""
        if self.format != "parquet":
            return encode("".join(line for chunk, answers in rows for line in self._lines(chunk, answers)))
        out = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(out, self.schema, options=options) as stream:
            for batch in self.batches(rows):
                stream.write_batch(batch)
        return out.getvalue()

    def batches(self, rows: Iterable[tuple[Chunk, Answers]]) -> Iterator[pa.RecordBatch]:
        """The same as Arrow batches."""
        return (output_batch(chunk, answers, self.columns, self.added) for chunk, answers in rows)

    def _lines(self, chunk: Chunk, answers: Answers) -> Iterator[str]:
        if self.format == "jsonl":
            names = self.added.names
            for row, answer in zip(chunk.dicts(), answers, strict=True):
                yield json_line(row | dict(zip(names, answer, strict=True)))
        else:
            for *cells, answer in zip(*map(chunk.column, self.columns.names), answers, strict=True):
                yield csv_line([*cells, *answer], self._mark)

    @property
    def schema(self) -> pa.Schema:
        """Of the batches."""
        return output_schema(self.columns, self.added)

    @property
    def _mark(self) -> str:
        return "\t" if self.format == "tsv" else ","

    @contextmanager
    def writer(self, target: str | Path, name: str | Path | None = None) -> Iterator[Callable[[bytes], None]]:
        """A function that writes payloads to ``target``, ``-`` for stdout. ``name``: what the file will be called.

        Leaving the block with an exception leaves no file. Raises OSError if the disk is full or the folder not
        writable.
        """
        name = target if name is None else name
        standard = str(target) == STANDARD
        try:
            # A duplicate of stdout, so that closing it also after an error leaves nothing for Python's own to flush.
            with os.fdopen(os.dup(sys.stdout.fileno()), "wb") if standard else replacing(target) as file:
                if self.format == "parquet":
                    with parquet_writer(file, self.schema) as write_batch:

                        def write_batches(payload: bytes) -> None:
                            for batch in pa.ipc.open_stream(payload):
                                write_batch(batch)

                        yield write_batches
                    return

                with nullcontext(file) if standard else _packed(file, name) as packed:

                    def write(payload: bytes) -> None:
                        packed.write(payload)
                        file.flush()

                    if self.format != "jsonl":
                        write(encode(csv_line([*self.columns.names, *self.added.names], self._mark)))
                    yield write
        except OSError as error:
            # A write to an open file fails without saying to which.
            if error.filename in (None, str(target)):
                error.filename = "stdout" if standard else str(name)
            raise


@contextmanager
def _packed(file: IO[bytes], target: str | Path) -> Iterator[IO[bytes]]:
    """The file, or one that compresses into it as the ending of ``target`` says."""
    codec = PACKED.get(Path(target).suffix.lower())
    if codec is None:
        yield file
        return
    # pyarrow closes what it writes to, and the file is needed open for a sync.
    with os.fdopen(os.dup(file.fileno()), "wb") as copy, pa.CompressedOutputStream(copy, codec) as stream:
        yield stream
