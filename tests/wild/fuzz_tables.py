"""Damaged tables: every row comes back with its own score or an error, in each output format, or none is written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from damage import damaged_bytes
from mutate import mutated
from table_check import check_bytes

from slant.tables.bulk import score_table  # noqa: F401  (imported before memory is limited)

TEXTS = ["Plain.", 'quote " and ""', "a,b;c\td|e", "two\nlines", "", "  é 中 🙂  ", "x" * 300, "null", "=1+1", "\\N"]
ROWS: list[dict[str, object]] = [
    {"id": number, "text": text, "score": number / 7, "when": None if number % 3 else "2024-02-30", "text 2": [number]}
    for number, text in enumerate(TEXTS)
]
Target = Callable[[Random], str]


def csv_table(folder: Path) -> Target:
    def made(random: Random) -> bytes:
        file = io.StringIO()
        writer = csv.writer(file, delimiter=random.choice(",;\t|"), lineterminator=random.choice(("\n", "\r\n")))
        writer.writerows([list(ROWS[0]), *([*row.values()] for row in ROWS)])
        return file.getvalue().encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")

    return partial(_checked, made, ("csv", "csv", "tsv", "txt"))


def json_table(folder: Path) -> Target:
    def made(random: Random) -> bytes:
        rows = mutated(ROWS, random) if random.random() < 0.5 else ROWS
        lines = [json.dumps(row, ensure_ascii=random.random() < 0.5) for row in rows] if isinstance(rows, list) else []
        text = "\n".join(lines) if random.random() < 0.7 else json.dumps(rows, indent=random.choice((None, 1)))
        return text.encode("utf-8", "surrogatepass")

    return partial(_checked, made, ("jsonl", "jsonl", "json"))


def parquet_table(folder: Path) -> Target:
    table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})
    tables = (
        table,
        table.set_column(1, "text", table["text"].dictionary_encode()),
        table.set_column(1, "text", pa.nulls(len(ROWS))),
        table.set_column(1, "text", table["text"].cast(pa.large_string())),
    )

    def made(random: Random) -> bytes:
        file = io.BytesIO()
        table, size = random.choice(tables), random.choice((2, 5, 100))
        if random.random() < 0.2:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, file, row_group_size=size, compression=random.choice(("none", "snappy", "zstd")))
        return file.getvalue()

    return partial(_checked, made, ("parquet", "parquet", "arrow"))


def _checked(made: Callable[[Random], bytes], endings: tuple[str, ...], random: Random) -> str:
    data, ending = made(random), random.choice(endings)
    if random.random() < 0.9:
        data = damaged_bytes(data, random)
    return "refused" if check_bytes(data, ending) else "scored"
