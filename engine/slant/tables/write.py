"""Output tables: CSV, JSON Lines and Parquet, complete or absent.

A file appears under its name when it is complete; stdout, pipes and devices get each chunk as soon as it is scored.
Cells of CSV, and of Parquet made from text formats, are strings: what was not a string in the input is its JSON.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import pyarrow as pa

from slant.errors import TableError
from slant.files import replacing
from slant.tables.csv_format import csv_line
from slant.tables.jsonl_format import json_line
from slant.tables.parquet_format import parquet_writer
from slant.tables.read import PACKED, STANDARD, format_of
from slant.tables.rows import Chunk, encode

Answers = Sequence[Sequence[object]]  # for each row of a chunk, a value for each added column
Write = Callable[[Chunk, Answers], None]
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
def open_writer(target: str | Path, format: str, columns: pa.Schema, added: pa.Schema) -> Iterator[Write]:
    """A function that writes a chunk of rows, with ``columns``, and their answers, the columns ``added``.

    Leaving the block with an exception leaves no file. Raises OSError if the disk is full or the folder not writable.
    """
    standard = str(target) == STANDARD
    try:
        # A duplicate of stdout, so that closing it also after an error leaves nothing for Python's own to flush.
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") if standard else replacing(target) as file:
            if format == "parquet":
                with parquet_writer(file, columns, added) as write_chunk:
                    yield write_chunk
                return

            with nullcontext(file) if standard else _packed(file, target) as packed:

                def write(lines: Iterable[str]) -> None:
                    packed.write(encode("".join(lines)))
                    file.flush()

                if format == "jsonl":
                    names = added.names
                    yield lambda chunk, answers: write(
                        json_line(row | dict(zip(names, answer, strict=True)))
                        for row, answer in zip(chunk.dicts(), answers, strict=True)
                    )
                else:
                    mark = "\t" if format == "tsv" else ","
                    write([csv_line([*columns.names, *added.names], mark)])
                    yield lambda chunk, answers: write(
                        csv_line([*row, *answer], mark)
                        for *row, answer in zip(*map(chunk.column, columns.names), answers, strict=True)
                    )
    except OSError as error:
        # A write to an open file fails without saying to which.
        if error.filename is None:
            error.filename = "stdout" if standard else str(target)
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
