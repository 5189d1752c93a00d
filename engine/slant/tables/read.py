"""Input tables: CSV, JSON, Parquet, Arrow and plain lines, read as chunks of rows in constant memory.

What cannot be read as a whole is a TableError; what is wrong with one row becomes that row's error, and the row keeps
its place. A format stands in a module of its own, and is named here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from slant.errors import TableError
from slant.tables.arrow_format import read_arrow
from slant.tables.csv_format import read_csv
from slant.tables.json_format import read_json
from slant.tables.jsonl_format import read_jsonl
from slant.tables.parquet_format import read_parquet
from slant.tables.rows import Chunk, InputTable, Record
from slant.tables.signatures import ARROW, PARQUET, refuse_others
from slant.tables.stream import STANDARD, Source, Text

ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "lines",
}
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}  # of text formats, after their own ending


def format_of(
    path: str | Path,
    given: str | None,
    default: str,
    option: str | None = None,
    formats: Collection[str] = tuple(ENDINGS.values()),
) -> str:
    """The format given, else by the ending of ``path``, else (stdin, stdout) the default.

    Raises TableError, which names the endings of the ``formats`` that fit, and the ``option``, if there is one.
    """
    if given:
        return given
    if str(path) == STANDARD:
        return default
    plain = Path(path)
    packed = plain.suffix.lower() in PACKED
    ending = (plain.with_suffix("") if packed else plain).suffix.lower()
    if ending not in ENDINGS:
        before = f" before {plain.suffix!r}" if packed else ""
        advice = f", or give {option}" if option else ""
        known = ", ".join(ending for ending, format in ENDINGS.items() if format in formats)
        raise TableError(f"{path}: the ending {ending!r}{before} is none of {known}; rename the file{advice}.")
    return ENDINGS[ending]


@contextmanager
def open_table(
    source: str | Path,
    input_format: str | None,
    *,
    text_column: str | None,
    window: int,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    needed: Collection[str] = (),
    option: str | None = "--input-format",
) -> Iterator[InputTable]:
    """Open ``source`` (``-`` is stdin) and read as far as its columns.

    input_format: None for what the file's ending says; stdin has lines then. text_column: None to read no texts.
    window: the number of rows in a chunk. delimiter: of CSV; None for what its header shows. needed: columns that must
    not be there twice. option: what gives the format, for messages. Raises TableError for a file that is missing,
    empty, damaged, of another encoding or without the text column.
    """
    wanted = {*needed} if text_column is None else {*needed, text_column}
    with closing(Source(source)) as opened:
        name, start, stream = opened.name, opened.start, opened.stream
        refuse_others(start, stream, name, texts=input_format == "lines" or Path(source).suffix.lower() == ".txt")
        format = format_of(source, input_format, "lines", option)
        if delimiter is not None and format not in ("csv", "tsv"):
            raise TableError(f"{name} is {format}, and a delimiter is for csv and tsv; leave out --delimiter.")
        if format in ("parquet", "arrow"):
            read = read_parquet if format == "parquet" else read_arrow
            yield read(stream, start, name, text_column, window, wanted)
            return
        for magic, other in ((PARQUET, "parquet"), (ARROW, "arrow")):
            if magic.match(start):
                advice = f", or give {option} {other}" if option else ""
                raise TableError(f"{name} is not {format} but {other}; name it .{other}{advice}.")
        text = Text(opened, encoding, newline="\n" if format in ("lines", "jsonl") else "")
        if format == "json":
            columns, records = read_json(text, name, text_column, window)
        elif format == "jsonl":
            columns, records = read_jsonl(text, name, text_column, window)
        elif format == "lines":
            column = text_column or "text"
            columns, records = [column], (({column: line}, line, None) for line in _lines(text, name))
        else:
            usual = "\t" if format == "tsv" else ","
            columns, records = read_csv(text, name, text_column, wanted, usual, delimiter)
        try:
            schema = pa.schema([(column, pa.string()) for column in columns])
        except UnicodeEncodeError as error:
            raise TableError(f"{name}: the column name {error.object!r} is not valid Unicode.") from error
        yield InputTable(schema, opened.total, _chunks(records, window, opened.position))


def _lines(text: Text, name: str) -> Iterator[str]:
    """The texts, one a line. A file without a single line feed may end its lines with carriage returns."""
    first = next(text, None)
    if first is None:
        raise TableError(f"{name} is empty.")
    old = not first.endswith("\n") and "\r" in first[:-1]
    lines = first.removesuffix("\r").split("\r") if old else chain([first], text)
    return (line.removesuffix("\n").removesuffix("\r") for line in lines)


def _chunks(records: Iterator[Record], size: int, position: Callable[[], int]) -> Iterator[Chunk]:
    while block := list(islice(records, size)):
        rows, texts, errors = (list(column) for column in zip(*block, strict=True))
        yield Chunk(rows, texts, errors, position())
