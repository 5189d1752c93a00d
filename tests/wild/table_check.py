"""Any bytes as a table: ``check_bytes`` scores them with the fake engine and checks what comes back.

Either they are refused in one sentence, or every row is there, in order, scored for its own text or with an error, in
every output format alike.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from fake import Engine

from slant.errors import TableError
from slant.tables.bulk import score_table
from slant.tables.labelled import LabelledTexts

OUTPUTS = ("jsonl", "csv", "tsv.gz", "parquet")
PREFIX = "slant_check_"  # of the added columns, which no input has
FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "txt")  # endings

MEMORY = Path("/dev/shm")  # jobs sync what they write, and a disk may take long for it

logging.getLogger("slant.tables").addHandler(logging.NullHandler())


def check_bytes(data: bytes, format: str, *, window: int = 3, **options: object) -> str | None:
    """Check a table of these bytes; ``format`` is a file's ending, as in ``FORMATS``, perhaps with .gz behind.

    options: of ``score_table``. Returns the message of a refused table, None for one that was scored. Raises
    AssertionError, or whatever slant did not catch.
    """
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        source = folder / f"in.{format}"
        source.write_bytes(data)
        found = [scored(source, folder / f"out.{ending}", window=window, **options) for ending in OUTPUTS]
        left = {path.name for path in folder.iterdir()} - {source.name}
        messages = [result for result in found if isinstance(result, str)]
        if messages:
            assert len(messages) == len(OUTPUTS), f"only some outputs are refused: {messages}"
            assert not left, f"a refused table leaves {left}"
            for message in messages:
                assert message.strip(), "an empty message"
                assert "\n" not in message.strip(), message
                assert "Traceback" not in message, message
            return messages[0]
        texts = LabelledTexts.read(source, **{"keep": None, **options})
        first, *others = found
        check_rows(first, data)
        assert len(texts.texts) == len(first), "evaluate and score read different rows"
        for text, row in zip(texts.texts, first, strict=True):
            assert text is None or row["error"] or text == row["text"], (text, row)
        for rows in others:
            assert len(rows) == len(first), f"{len(first)} rows of JSON Lines are {len(rows)}"
            for one, other in zip(first, rows, strict=True):
                assert not one["error"] or other["error"], (one, other)
                assert one["error"] or other["error"] or one["label"] == other["label"], (one, other)
        return None


def scored(source: Path, target: Path, **options: object) -> list[dict[str, object]] | str:
    """Text, label and error of each row of the output, None for empty; or the message of a TableError."""
    try:
        summary = score_table(Engine(), source, target, prefix=PREFIX, force=True, **options)  # type: ignore[arg-type]
    except TableError as error:
        assert not target.exists()
        return str(error)
    rows = read_back(target)
    assert summary.rows == len(rows)
    column = options.get("text_column", "text")
    names = {"text": column} | {name: PREFIX + name for name in ("label", "error", "p0")}
    picked = [{name: row.get(column) for name, column in names.items()} for row in rows]
    for row in picked:
        row["label"] = None if row["label"] in (None, "") else int(row["label"])  # type: ignore[call-overload]
        row["error"] = row["error"] or None
    assert summary.errors == sum(row["error"] is not None for row in picked)
    return picked


def _values(column: pa.Array) -> list[object]:
    """A column's values; in a damaged input, which is copied as it is, strings need not be UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
        return [value and value.decode(errors="backslashreplace") for value in values]


def read_back(path: Path, columns: tuple[str, ...] = ("text",)) -> list[dict[str, object]]:
    """These and the added columns of a table that slant wrote, as another program would read it."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        names = [f for f in table.column_names if f in columns or f.startswith(PREFIX)]
        columns = [[_text(value) for value in _values(table.column(name).combine_chunks())] for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in content.split(b"\n")[:-1]]
    csv.field_size_limit(1 << 30)
    lines = io.StringIO(content.decode(), newline="")
    header, *rows = csv.reader(lines, delimiter="\t" if ".tsv" in path.name else ",", strict=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _text(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def check_rows(rows: list[dict[str, object]], data: bytes) -> None:
    """Each row has an error or the label of its own text."""
    engine = Engine()
    for row in rows:
        assert (row["error"] is None) == (row["label"] is not None), row
        assert (row["error"] is None) == (row["p0"] not in (None, "")), row
        if row["error"] is None:
            assert row["label"] == engine.answer(row["text"]).label, row
