"""What tables hold comes out of a job as it went in, whatever the format, and whether the job was stopped or not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake import Engine
from watched import Watched, names, stopped

from slant import Engine as RealEngine
from slant.demo import FOLDER
from slant.tables.bulk import score_table

NESTED = pa.struct([("a", pa.list_(pa.int16())), ("b", pa.map_(pa.string(), pa.float32()))])


def rich(rows: int = 23) -> pa.Table:
    """Nulls, nested columns, categories in an order of their own, large strings, times and bytes."""
    order = pa.array(["low", "middle", "high", "never"])
    places = pa.array([None if i % 5 == 4 else i % 3 for i in range(rows)], pa.int8())
    nested = [None if i % 4 == 3 else {"a": [i, None], "b": [("k", i / 2)]} for i in range(rows)]
    return pa.table(
        {
            "text": pa.array([f"text {i}" for i in range(rows)], pa.large_string()),
            "category": pa.DictionaryArray.from_arrays(places, order, ordered=True),
            "nested": pa.array(nested, NESTED),
            "nothing": pa.nulls(rows),
            "flag": pa.array([None, True, False] * rows, pa.bool_())[:rows],
            "when": pa.array(range(rows), pa.timestamp("us", "UTC")),
            "raw": pa.array([b"\xff\x00", None] * rows, pa.binary())[:rows],
            "big": pa.array([2**63 - 1, None] * rows, pa.int64())[:rows],
        }
    ).replace_schema_metadata({"made": "here"})


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("rows", [0, 1, 23])
def test_types_survive_parts(tmp_path: Path, ending: str, rows: int) -> None:
    source, table = tmp_path / f"in.{ending}", rich(rows)
    if ending == "parquet":
        pq.write_table(table, source, row_group_size=5)
    else:
        with pa.ipc.new_file(source, table.schema) as file:
            file.write_table(table, max_chunksize=5)
    if rows > 20:
        stopped(source, tmp_path / "out.parquet", "text 14")
    score_table(Watched(), source, tmp_path / "out.parquet", window=4)
    score_table(Watched(), source, tmp_path / "once.parquet", window=100)
    score_table(Watched(), source, tmp_path / "parts", window=4, parts=True)
    for found in (pq.read_table(tmp_path / "out.parquet"), pq.read_table(tmp_path / "once.parquet")):
        assert found.select(table.column_names).equals(table)
        assert found.schema.field("category").type.ordered
        assert found.schema.metadata[b"made"] == b"here"
        assert rows == 0 or "never" in found.column("category").chunk(0).dictionary.to_pylist()
    parts = pq.read_table(tmp_path / "parts")
    assert parts.select(table.column_names).equals(table)
    assert parts.num_rows == rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "jsonl.zst", "csv.gz"])
@pytest.mark.parametrize("source", ["in.parquet", "in.jsonl"])
def test_values_survive_parts(tmp_path: Path, source: str, ending: str) -> None:
    if source == "in.parquet":
        pq.write_table(rich(), tmp_path / source, row_group_size=5)
    else:
        rows = [{"text": f"text {i}", "n": {"a": [i, None]}, "x": None if i % 2 else "ü\u2028,\n"} for i in range(23)]
        (tmp_path / source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    stopped(tmp_path / source, tmp_path / f"out.{ending}", "text 14")
    score_table(Watched(), tmp_path / source, tmp_path / f"out.{ending}", window=4)
    score_table(Watched(), tmp_path / source, tmp_path / f"once.{ending}", window=100)
    found, once = (pa.input_stream(tmp_path / f"{name}.{ending}").read() for name in ("out", "once"))
    assert found == once
    assert names(tmp_path) == {source, f"out.{ending}", f"once.{ending}"}
    if "jsonl" in ending:
        read = [json.loads(line) for line in found.splitlines()]
        assert source == "in.parquet" or [{key: row[key] for key in rows[0]} for row in read] == rows
    else:
        mark = "\t" if ending == "tsv" else ","
        read = list(csv.DictReader(found.decode().splitlines(keepends=True), delimiter=mark, strict=True))
        assert source == "in.parquet" or [row["x"] for row in read] == [row["x"] or "" for row in rows]
    assert [row["text"] for row in read] == [f"text {i}" for i in range(23)]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_field_of_50_megabytes(tmp_path: Path, ending: str) -> None:
    long = "word " * 10_000_000
    rows = [{"text": "a", "id": "1"}, {"text": long, "id": "2"}, {"text": "b", "id": "3"}]
    source = tmp_path / f"in.{ending}"
    if ending == "csv":
        source.write_text("text,id\n" + "".join(f'"{row["text"]}",{row["id"]}\n' for row in rows))
    elif ending == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    for target in ("csv", "jsonl", "parquet"):
        summary = score_table(Engine(), source, tmp_path / f"out.{target}", window=1, force=True)
        assert (summary.rows, summary.errors) == (3, 0)
        if target == "parquet":
            read: list[dict[str, Any]] = pq.read_table(tmp_path / "out.parquet").to_pylist()
        elif target == "jsonl":
            read = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        else:
            limit = csv.field_size_limit(1 << 28)
            read = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines(keepends=True)))
            csv.field_size_limit(limit)
        assert [row["id"] for row in read] == ["1", "2", "3"]
        assert [len(row["text"]) for row in read] == [1, len(long), 1]


def test_order_and_window_change_nothing_with_deterministic(tmp_path: Path) -> None:
    """Of the bundled model, in the arithmetic that this machine chooses."""
    engine = RealEngine.load(FOLDER, deterministic=True, token_budget=512)
    texts = [f"{'word ' * (i * 7 % 23)}number {i}" for i in range(24)]
    found = []
    for window, order in ((5, range(24)), (7, range(23, -1, -1)), (24, range(0, 24, 1))):
        (tmp_path / "in.txt").write_text("".join(f"{texts[i]}\n" for i in order))
        score_table(engine, tmp_path / "in.txt", tmp_path / f"{window}.jsonl", window=window)
        lines = (tmp_path / f"{window}.jsonl").read_bytes().splitlines()
        found.append(dict(zip(order, lines, strict=True)))
    assert found[0] == found[1] == found[2]


def test_the_bundled_model_goes_on(tmp_path: Path) -> None:
    engine = RealEngine.load(FOLDER)
    (tmp_path / "in.txt").write_text("".join(f"number {i}\n" for i in range(12)))
    score_table(engine, tmp_path / "in.txt", tmp_path / "whole.csv", window=4)

    def stop(summary: Any) -> None:
        if summary.rows > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_table(engine, tmp_path / "in.txt", tmp_path / "out.csv", window=4, progress=stop)
    assert (tmp_path / "out.csv.parts" / "00000000.part").exists()
    other = RealEngine.load(FOLDER, max_tokens=512, truncation="middle")
    with pytest.raises(Exception, match=r"max-tokens was \d+, is 512; truncation was head, is middle"):
        score_table(other, tmp_path / "in.txt", tmp_path / "out.csv", window=4)
    again = RealEngine.load(FOLDER)
    assert score_table(again, tmp_path / "in.txt", tmp_path / "out.csv", window=4).earlier == 4
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert engine.identity() == again.identity() != other.identity()
