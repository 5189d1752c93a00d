"""Tables in the formats of other programs: read, or named for what they are with the way out."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import pickle
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake import Engine
from pyarrow import feather, orc

from slant.errors import TableError
from slant.tables import json_format
from slant.tables.bulk import score_table
from slant.tables.labelled import LabelledTexts
from slant.tables.rows import Chunk
from slant.tables.write import WRITTEN, Output

ROWS = [{"id": i, "text": text} for i, text in enumerate(["plain", 'a "b", c', "two\nlines", "Größe 🙂", "\x1f"])]
TEXTS = [row["text"] for row in ROWS]


def run(source: Path, ending: str = "jsonl", **options: object) -> list[dict]:
    target = source.with_name(f"scored.{ending}")
    score_table(Engine(), source, target, force=True, **options)  # type: ignore[arg-type]
    return back(target)


def back(path: Path) -> list[dict]:
    if "parquet" in path.name:
        return pq.read_table(path).to_pylist()
    if "jsonl" in path.name:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def refused(source: Path, content: bytes | None = None, **options: object) -> str:
    """The message for a file that is refused before the model is loaded; nothing is left behind."""
    if content is not None:
        source.write_bytes(content)
    target = source.with_name("scored.csv")
    with pytest.raises(TableError) as caught:
        score_table(lambda: pytest.fail("loads a model for nothing"), source, target, **options)  # type: ignore[arg-type]
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    return str(caught.value)


def packed(content: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


# JSON


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n\n [" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n\n",
        pd.DataFrame(ROWS).to_json(orient="records"),
        pd.DataFrame(ROWS).to_json(orient="records", lines=True),  # JSON Lines under the name of JSON
        "\n" + "\n\n".join(map(json.dumps, ROWS)),
    ],
)
def test_json(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 7, 1 << 20):
        monkeypatch.setattr(json_format, "BLOCK", block)
        (tmp_path / "in.json").write_text(content, encoding="utf-8")
        for ending in ("jsonl", "parquet", "csv"):
            rows = run(tmp_path / "in.json", ending, window=2)
            assert [(int(row["id"]), row["text"]) for row in rows] == [(row["id"], row["text"]) for row in ROWS]
            assert not any(row["error"] for row in rows)


def test_one_object_is_one_row(tmp_path: Path) -> None:
    for indent in (None, 2):
        (tmp_path / "in.json").write_text(json.dumps({"text": "a", "tags": ["x", "y"]}, indent=indent))
        (row,) = run(tmp_path / "in.json")
        assert (row["text"], row["tags"]) == ("a", ["x", "y"])


@pytest.mark.parametrize("block", [1, 5, 64, 1 << 20])
def test_a_bad_value_in_an_array_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(json_format, "BLOCK", block)
    long = "1" * 5000
    values = [
        '{"text": "a", "id": 1}', '{"text": "b", "text": "c"}', '"d"', "5", "-12.5e3", "null", "[1]",
        '{"id": 7}', f'{{"text": "e", "n": {long}}}', '{"text": 9}',
        '{"text": "\\ud800"}', '{"text": "f", "x": [NaN, 1e999]}', "true",
        '{"text": "end"}',
    ]  # fmt: skip
    (tmp_path / "in.json").write_text("[" + " ,\n".join(values) + "]")
    rows = [json.loads(line) for line in scored_lines(tmp_path / "in.json")]
    good = [row["text"] for row in rows if row["error"] is None]
    assert good == ["a", "f", "end"]
    assert len(rows) == len(values)
    assert rows[1]["text"] == values[1]
    assert rows[1]["error"].startswith("Row 2 is not JSON: the key 'text' is there twice")
    assert [rows[i]["text"] for i in (2, 3, 4, 5, 6, 8, 12)] == ["d", "5", "-12500.0", "null", "[1]", values[8], "true"]
    assert rows[7]["error"] == "Row 8 has no 'text'."
    assert rows[11]["x"] == [None, None]


def scored_lines(source: Path) -> list[bytes]:
    score_table(Engine(), source, source.with_name("scored.jsonl"), force=True)
    return source.with_name("scored.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}', "not JSON at row 1 of its array, from line 1: a ',' or the array's ']' is missing"),
        ('[{"text": "a"},\n{"text": "b"},\n]', "row 3 of its array, from line 3: Expecting value"),
        ('[{"text": "a"},\n\n{"text": ', "row 2 of its array, from line 3: Expecting value"),
        ('[{"text": "a"}, {"text": "b', "row 2 of its array, from line 1: Unterminated string"),
        ('[{"text": "a"}]\n[{"text": "b"}]', "something follows the array"),
        ('[{"text": "a"} {"text": "b"}]', "',' or the array's ']' is missing"),
        ("[{'text': 'a'}]", "Expecting property name"),
        ('[{"text": "a"},' + '{"text":' * 100_000, "row 2 of its array, from line 1: it is nested too deeply"),
        ("[]", "not an array of JSON objects. It is empty"),
        ('["a", "b"]', "not an array of JSON objects. Row 1 is not a JSON object"),
        ('{"data": [{"text": "a"}, {"text": "b"}]}', "one object, whose 'data' holds 2 values.*orient='records'"),
        (pd.DataFrame(ROWS).to_json(), "one object, whose 'id' holds 5 values"),
        (pd.DataFrame(ROWS).to_json(orient="split"), "one object, whose"),
        (pd.DataFrame(ROWS).to_json(orient="table"), "one object, whose"),
        (pd.DataFrame(ROWS).to_json(orient="values"), "not an array of JSON objects"),
        ('{"Text": "a"}', "did you mean --text-column Text"),
        ("{}", "not JSON that holds a table"),
        ("text,id\na,1\n", "not JSON that holds a table. Row 1 is not JSON"),
        (" \n", "is empty"),
    ],
)  # fmt: skip
def test_json_that_is_no_table(tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "in.json"
    source.write_text(content)
    with pytest.raises(TableError, match=message):
        score_table(Engine(), source, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize("content", [json.dumps(ROWS), json.dumps(ROWS, indent=1), json.dumps(ROWS[0], indent=1)])
def test_json_under_the_name_of_json_lines(tmp_path: Path, content: str) -> None:
    message = refused(tmp_path / "in.jsonl", content.encode())
    assert "name it .json, or give --input-format json" in message
    assert run(tmp_path / "in.jsonl", input_format="json")[0]["text"] == "plain"


def test_an_array_is_read_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "in.json").open("w") as file:
        file.write('[{"text": "a"}')
        file.writelines(f', {{"text": "{"x" * 1000}"}}' for _ in range(3_000))  # no line end in 3 MB
        file.write("]")
    monkeypatch.setattr(json_format, "BLOCK", 1 << 14)
    tracemalloc.start()
    summary = score_table(Engine(), tmp_path / "in.json", tmp_path / "out.csv", window=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (summary.rows, summary.errors) == (3_001, 0)
    assert peak < 1.5e6


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_odd_keys(tmp_path: Path, ending: str) -> None:
    odd = {"": 1, "nul\0": 2, "k" * 100_000: 3, 'a,b\n"c"': 4, "Größe": {"x": [None, {"y": "ü"}]}, " text": 5}
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a", **odd}) + "\n" + json.dumps({"text": "b"}) + "\n")
    source, target = tmp_path / "in.jsonl", tmp_path / f"out.{ending}"
    assert score_table(Engine(), source, target).errors == 0
    if ending == "parquet":
        rows = pq.read_table(target).to_pylist()
    elif ending == "jsonl":
        rows = [json.loads(line) for line in target.read_bytes().splitlines()]
    else:
        return
    assert [str(rows[0][key]) for key in odd if key != "Größe"] == ["1", "2", "3", "4", "5"]
    assert rows[1].get("nul\0") is None


# Packed


CODECS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2", "lz4": "lz4"}
CONTENTS = {
    "csv": b"id;text\n0;plain\n1;b\n",
    "tsv": "id\ttext\n0\tplain\n1\tb\n".encode("utf-16"),
    "jsonl": b'{"id": 0, "text": "plain"}\n{"id": 1, "text": "b"}\n',
    "json": b'[{"id": 0, "text": "plain"}, {"id": 1, "text": "b"}]',
    "txt": b"plain\nb\n",
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("format", CONTENTS)
def test_packed_files_are_told_by_their_content(tmp_path: Path, format: str, codec: str) -> None:
    plain, small = CONTENTS[format], packed(CONTENTS[format], CODECS[codec])
    # Under both names: servers and browsers unpack or pack without a change of it.
    for name, content in ((f"a.{format}.{codec}", small), (f"b.{format}", small), (f"c.{format}.{codec}", plain)):
        (tmp_path / name).write_bytes(content)
        assert [row["text"] for row in run(tmp_path / name)] == ["plain", "b"]


def test_gzip_of_other_programs(tmp_path: Path) -> None:
    first, second = gzip.compress(b"text\na\n"), gzip.compress(b"b\n", 1)
    (tmp_path / "in.csv.gz").write_bytes(first + second)  # cat a.gz b.gz, and bgzip
    assert [row["text"] for row in run(tmp_path / "in.csv.gz")] == ["a", "b"]
    pd.DataFrame(ROWS).to_json(tmp_path / "in.jsonl.gz", orient="records", lines=True)
    assert [row["text"] for row in run(tmp_path / "in.jsonl.gz")] == TEXTS
    (tmp_path / "in.csv").write_bytes(bz2.compress(b"text\na\n"))
    assert [row["text"] for row in run(tmp_path / "in.csv")] == ["a"]


@pytest.mark.parametrize("codec", CODECS)
def test_a_packed_file_that_is_damaged(tmp_path: Path, codec: str) -> None:
    content = packed(b"text\n" + b"".join(b"row %d\n" % i for i in range(500)), CODECS[codec])
    source, target = tmp_path / f"in.csv.{codec}", tmp_path / "out.csv"
    for damaged in (content[: len(content) // 2], content[:-1], content[:20]):
        source.write_bytes(damaged)
        with pytest.raises(TableError, match=r"damaged after line \d+: .*; get the file again|cannot be read: Trunc"):
            score_table(Engine(), source, target)
        assert not target.exists()
    source.write_bytes(packed(b"", CODECS[codec]))
    assert "is empty" in refused(source)


@pytest.mark.parametrize("ending", [f"{format}.{codec}" for format in ("csv", "tsv", "jsonl") for codec in CODECS])
def test_output_is_packed_as_its_ending_says(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.json").write_text(json.dumps(ROWS))
    score_table(Engine(), tmp_path / "in.json", tmp_path / f"out.{ending}", window=2)
    score_table(Engine(), tmp_path / "in.json", tmp_path / f"plain.{ending.split('.')[0]}", window=2)
    with pa.CompressedInputStream(tmp_path.joinpath(f"out.{ending}").open("rb"), CODECS[ending.split(".")[1]]) as file:
        assert file.read() == (tmp_path / f"plain.{ending.split('.')[0]}").read_bytes()
    assert [row["text"] for row in run(tmp_path / f"out.{ending}", prefix="again_")] == TEXTS


def test_packed_output_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Engine):
        def stream(self, texts: object, **options: object) -> Iterator:
            yield from list(super().stream(texts, **options))[:3]  # type: ignore[arg-type]
            raise KeyboardInterrupt

    (tmp_path / "in.json").write_text(json.dumps(ROWS))
    with pytest.raises(KeyboardInterrupt):
        score_table(Failing(), tmp_path / "in.json", tmp_path / "out.csv.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


# Outputs that are not written


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.parquet.gz", "Parquet is compressed in itself; leave out .gz"),
        ("out.json", "json is read, not written; write csv, tsv, jsonl, parquet"),
        ("out.feather", "arrow is read, not written"),
        ("out.txt", "lines hold no scores"),
        ("out.xlsx", "the ending '.xlsx' is none of .csv, .tsv, .tab, .jsonl, .ndjson, .parquet; .*--output-format"),
        ("out.csv.xz", "the ending '.xz' is none of"),
        ("out.gz", "the ending '' before '.gz' is none of"),
    ],
)
def test_outputs_that_are_not_written(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "in.csv").write_text("text\na\n")
    with pytest.raises(TableError, match=message):
        score_table(lambda: pytest.fail("loads a model for nothing"), tmp_path / "in.csv", tmp_path / target)


# Arrow and Parquet


def arrow(path: Path, table: pa.Table, stream: bool = False, **options: object) -> Path:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("kind", ["file", "stream", "feather", "lz4"])
def test_arrow_files(tmp_path: Path, kind: str, ending: str) -> None:
    table = pa.table({"id": [row["id"] for row in ROWS], "text": pa.array(TEXTS).dictionary_encode()})
    path = tmp_path / "in.arrow"  # as Hugging Face datasets writes it, a stream
    if kind == "feather":
        feather.write_feather(table, path.with_suffix(".feather"))
        path = path.with_suffix(".feather")
    elif kind == "lz4":
        arrow(path, table, options=pa.ipc.IpcWriteOptions(compression="lz4"))
    else:
        arrow(path, table, kind == "stream")
    for window in (1, 2, 1024):
        assert [row["text"] for row in run(path, ending, window=window)] == TEXTS


@pytest.mark.parametrize("window", [1, 3, 1024])
def test_columns_of_parquet_that_end_early(tmp_path: Path, window: int) -> None:
    """In every command: rows are not lost because the reader's windows end where a column does."""
    source = tmp_path / "in.parquet"
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False, "store_schema": False}
    fields = [pa.field("text", pa.string(), False), pa.field("label", pa.int64(), False)]
    pq.write_table(pa.table({"text": ["a"] * 9, "label": [1] * 9}, pa.schema(fields)), source, **plain)
    data = source.read_bytes()
    assert LabelledTexts.read(source, labels_column="label").values == (1,) * 9
    page = b"\x15\x00\x15\x90\x01\x15\x90\x01\x2c\x15"  # the header of a page of 72 bytes; its values follow, doubled
    assert data.count(page + b"\x12") == 1
    source.write_bytes(data.replace(page + b"\x12", page + b"\x0c"))
    with pytest.raises(TableError, match=r"in\.parquet is damaged after row"):
        score_table(Engine(), source, tmp_path / "out.csv", window=window, prefix="new_")
    with pytest.raises(TableError, match=r"in\.parquet is damaged after row"):
        LabelledTexts.read(source, labels_column="label")


def test_arrow_that_is_damaged(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS * 100})
    for stream in (False, True):
        whole = arrow(tmp_path / "in.arrow", table, stream).read_bytes()
        for content in (whole[:-30], whole[: len(whole) // 2], b"ARROW1\0\0", b"text\na\n", b""):
            (tmp_path / "in.arrow").write_bytes(content)
            with pytest.raises(TableError, match=r"in.arrow is (not|damaged)"):
                score_table(Engine(), tmp_path / "in.arrow", tmp_path / "out.csv")


TEXT_COLUMNS = {
    "null": (pa.nulls(3), [None, None, None]),
    "dictionary": (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
    "large dictionary": (pa.array(["a", None, "b"], pa.large_string()).dictionary_encode(), ["a", None, "b"]),
    "large": (pa.array(["a", None, "b"], pa.large_string()), ["a", None, "b"]),
    "view": (pa.array(["a", None, "b"], pa.string_view()), ["a", None, "b"]),
    "bytes": (pa.array([b"a", None, b"\xff"]), ["a", None, None]),
    "large bytes": (pa.array([b"a", "ü".encode(), b"\xff"], pa.large_binary()), ["a", "ü", None]),
    "fixed bytes": (pa.array([b"a", None, b"b"], pa.binary(1)), ["a", None, "b"]),
    "bytes in a dictionary": (pa.array([b"a", None, b"b"]).dictionary_encode(), ["a", None, "b"]),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", None, "{}"])), ["1", None, "{}"]),
}


@pytest.mark.parametrize("kind", TEXT_COLUMNS)
def test_columns_of_texts_in_parquet(tmp_path: Path, kind: str) -> None:
    column, texts = TEXT_COLUMNS[kind]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": column, "id": [1, 2, 3]}), path)
    for window in (1, 1024):
        rows = run(path, window=window)
        assert [None if row["error"] else row["text"] for row in rows] == texts
        assert [row["id"] for row in rows] == [1, 2, 3]
        assert [row["text"] if row["label"] else None for row in run(path, "csv", window=window)] == texts
        run(path, "parquet", window=window)
        found = pq.read_table(tmp_path / "scored.parquet")
        assert found.schema.field("text") == pq.read_table(path).schema.field("text")
        assert found.column("text").equals(pq.read_table(path).column("text"))
        assert [value is None for value in found.column("error").to_pylist()] == [text is not None for text in texts]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"], None]), pa.array([1, 2]), pa.array([1.5, float("nan")]), pa.array([True, None]),
        pa.array([{"a": "b"}, None]), pa.array([1, 2], pa.timestamp("ns")),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16] * 2, pa.binary(16))),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_columns_of_other_things_are_refused(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "in.parquet")
    message = refused(tmp_path / "in.parquet")
    kind = pq.read_schema(tmp_path / "in.parquet").field("text").type
    assert f"holds {kind}, not text; choose another with --text-column" in message


def test_repeated_and_empty_names_in_parquet(tmp_path: Path) -> None:
    names = ["x", "text", "x", ""]
    table = pa.Table.from_arrays([pa.array([i]) if i != 1 else pa.array(["a"]) for i in range(4)], names=names)
    pq.write_table(table.replace_schema_metadata({"pandas": "{}", "other": "kept"}), tmp_path / "in.parquet")
    for ending in ("jsonl", "parquet"):
        (row,) = run(tmp_path / "in.parquet", ending)
        assert [row[name] for name in ("x", "text", "x_2", "column_4")] == [0, "a", 2, 3]
    assert pq.read_schema(tmp_path / "scored.parquet").metadata[b"other"] == b"kept"
    assert b"pandas" not in pq.read_schema(tmp_path / "scored.parquet").metadata
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), tmp_path / "in.parquet")
    assert "two columns of the same name, 'text'" in refused(tmp_path / "in.parquet")


def test_pandas_categories_and_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": pd.Categorical(["a", "b", None]), "t": [pd.NaT, pd.Timestamp("2020"), pd.NaT]})
    frame.index = pd.Index(["i", "j", "k"])
    frame.to_parquet(tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", "parquet")
    found = pd.read_parquet(tmp_path / "scored.parquet")
    pd.testing.assert_frame_equal(found[["text", "t"]], frame)
    assert found["error"].isna().tolist() == [True, True, False]


def test_no_rows_and_no_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({}), tmp_path / "in.parquet")
    assert "has no columns" in refused(tmp_path / "in.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    for ending in ("csv", "jsonl", "parquet", "csv.gz"):
        assert score_table(Engine(), tmp_path / "in.parquet", tmp_path / f"out.{ending}").rows == 0
        assert (tmp_path / f"out.{ending}").exists()


def test_row_groups_of_any_size(tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.string())])
    texts = []
    with pq.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for group in (1, 0, 700, 2, 300):
            part = [f"{group} {i}" for i in range(group)]
            writer.write_table(pa.table({"text": pa.array(part, pa.string())}))
            texts += part
    assert [row["text"] for row in run(tmp_path / "in.parquet", "parquet", window=100)] == texts


def odd_columns() -> dict[str, pa.Array]:
    return {
        "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["x", "y"])]),
        "interval": pa.array([pa.MonthDayNano([1, 2, 3]), None]),
        "runs": pa.RunEndEncodedArray.from_arrays([1, 2], ["x", "y"]),
        "empty struct": pa.array([{}, None], pa.struct([])),
        "ints in a dictionary": pa.array([1, None], pa.int32()).dictionary_encode(),
        "half": pa.array([1, None], pa.float16()),
        "duration": pa.array([1, None], pa.duration("ns")),
        "decimal": pa.array(["1.25", None]).cast(pa.decimal256(50, 2)),
        "map": pa.array([[("k", [1])], None], pa.map_(pa.string(), pa.list_(pa.int8()))),
        "list view": pa.array([[1, None], None], pa.list_view(pa.int8())),
        "nulls in a list": pa.array([[None], None], pa.list_(pa.null())),
        "null": pa.nulls(2),
        "time": pa.array([1, None], pa.time32("ms")),
        "zone": pa.array([2**62, None], pa.timestamp("us", "Mars/Base")),
        "date64": pa.array([86400000, None], pa.date64()),
    }


@pytest.mark.parametrize("kind", odd_columns())
def test_any_type_is_written_or_refused_before_scoring(tmp_path: Path, kind: str) -> None:
    source = arrow(tmp_path / "in.arrow", pa.table({"text": ["a", "b"], "odd": odd_columns()[kind]}))
    for ending in ("jsonl", "csv"):
        assert score_table(Engine(), source, tmp_path / f"out.{ending}").rows == 2
    if kind in ("union", "interval", "runs", "empty struct"):  # those that Parquet lacks
        with pytest.raises(TableError, match=r"Parquet cannot hold the input's columns: .*; write jsonl or csv"):
            score_table(lambda: pytest.fail("loads a model for nothing"), source, tmp_path / "out.parquet")
    else:
        assert score_table(Engine(), source, tmp_path / "out.parquet").rows == 2
        assert pq.read_table(tmp_path / "out.parquet").num_rows == 2


# Named for what they are


def archive(path: Path, *names: str) -> bytes:
    with ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "text\na\n")
    return path.read_bytes()


def foreign(folder: Path) -> dict[str, tuple[str, bytes, str]]:
    """Files by what they are: a name, the content, and what the message says."""
    table = pa.table({"text": ["a"]})
    with sqlite3.connect(folder / "db") as database:
        database.execute("create table t (text)")
    orc.write_table(table, folder / "orc")
    np.save(folder / "array.npy", np.array(["a"]))
    np.savez(folder / "arrays.npz", a=np.array(["a"]))
    pq.write_table(table, folder / "parquet")
    parquet = (folder / "parquet").read_bytes()
    zipped = archive(folder / "z1", "in.csv")
    sheet = "save it as CSV UTF-8 in a spreadsheet program"
    return {
        "xlsx": ("in.xlsx", archive(folder / "z2", "xl/workbook.xml"), f"an Excel workbook; {sheet}"),
        "xlsx as csv": ("in.csv", archive(folder / "z2", "xl/workbook.xml"), f"an Excel workbook; {sheet}"),
        "ods": ("in.ods", archive(folder / "z3", "mimetype", "content.xml"), f"an OpenDocument file; {sheet}"),
        "xls": ("in.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old Excel workbook"),
        "zip": ("in.csv.zip", zipped, "a ZIP archive of in.csv; unpack it"),
        "zip of two": ("in.zip", archive(folder / "z4", "a.csv", "b.csv"), "a ZIP archive of 2 files; unpack it"),
        "zip as csv": ("in.csv", zipped, "a ZIP archive of in.csv; unpack it"),
        "cut zip": ("in.zip", zipped[:30], "a damaged ZIP archive"),
        "npz": ("in.npz", (folder / "arrays.npz").read_bytes(), "NumPy arrays"),
        "npy": ("in.npy", (folder / "array.npy").read_bytes(), "a NumPy array"),
        "pickle": ("in.pkl", pickle.dumps(pd.DataFrame(ROWS)), "a Python pickle; load it where it was made"),
        "sqlite": ("in.sqlite", (folder / "db").read_bytes(), "an SQLite database; export a table"),
        "orc": ("in.orc", (folder / "orc").read_bytes(), "an ORC file; read it with pyarrow.orc"),
        "avro": ("in.avro", b"Obj\x01\x04\x14avro.codec", "an Avro file"),
        "hdf5": ("in.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        "xz": ("in.csv.xz", lzma.compress(b"text\na\n"), "compressed with xz; unpack it with unxz"),
        "tar": ("in.tar", bytes(257) + b"ustar" + bytes(300), "a tar archive; unpack it"),
        "tar.gz": ("in.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(300)), "a tar archive; unpack it"),
        "pdf": ("in.csv", b"%PDF-1.7\n", "a PDF document"),
        "web page": ("in.csv", b"\n<!DOCTYPE html><html>", "a web page; the download may have been a log-in"),
        "lfs": ("in.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "lfs of csv": ("in.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "parquet as csv": ("in.csv", parquet, "not csv but parquet; name it .parquet, or give --input-format parquet"),
        "parquet as jsonl": ("in.jsonl", parquet, "not jsonl but parquet"),
        "parquet as txt": ("in.txt", parquet, "not lines but parquet"),
        "arrow as csv": ("in.csv", arrow(folder / "a", table).read_bytes(), "not csv but arrow; name it .arrow"),
        "stream as json": ("in.json", arrow(folder / "a", table, True).read_bytes(), "not json but arrow"),
        "csv as parquet": ("in.parquet", b"text\na\n", "it begins with b'text\\na\\n'; name it as what it is"),
        "cut parquet": ("in.parquet", parquet[:-9], "is not a readable Parquet file: .*; get the file again"),
        "packed parquet": ("in.parquet", gzip.compress(parquet), "cannot come through a pipe or packed"),
        "encrypted parquet": ("in.parquet", b"PARE" + parquet[4:-4] + b"PARE", "an encrypted Parquet file"),
    }  # fmt: skip


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for kind, (name, content, message) in foreign(tmp_path / "made").items():
        found = refused(tmp_path / name, content)
        before, _, after = message.partition(".*")
        assert before in found, (kind, found)
        assert after in found, (kind, found)


@pytest.mark.parametrize("word", ["ORC", "PARENT", "PAR1", "ARROW1", "BZh9", "Obj", "PK", "FEA1", "RDX2", "%PD", "7z"])
def test_words_like_signatures_are_text(tmp_path: Path, word: str) -> None:
    (tmp_path / "in.csv").write_text(f"{word},text\n1,a\n")
    assert score_table(Engine(), tmp_path / "in.csv", tmp_path / "out.csv").rows == 1


def test_lines_may_be_markup(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("<html>\n<?xml?>\n")
    assert [row["text"] for row in run(tmp_path / "in.txt")] == ["<html>", "<?xml?>"]


def test_more_than_one_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts.parquet").mkdir()
    assert "holds no table; its files may end with .csv" in refused(tmp_path / "parts.parquet")
    assert "no file matches" in refused(tmp_path / "*.csv")
    with pytest.raises(TableError, match="is a folder; slant reads one file at a time"):
        LabelledTexts.read(tmp_path / "parts.parquet")
    with pytest.raises(TableError, match="reads one file at a time, and no patterns"):
        LabelledTexts.read(tmp_path / "*.csv")
    with pytest.raises(TableError, match="is an address: download it first"):
        score_table(Engine(), "https://example.com/in.csv", tmp_path / "out.csv")
    assert "embedded null byte" in refused(tmp_path / "a\0b.csv")


def test_all_formats_that_are_written_have_a_writer(tmp_path: Path) -> None:
    columns, added = pa.schema([("text", pa.string())]), pa.schema([("error", pa.string())])
    for format in WRITTEN:
        output = Output(format, columns, added)
        with output.writer(tmp_path / format) as write:
            write(output.payload([(Chunk([{"text": "a"}], ["a"], [None], 1), [["none"]])]))
        assert (tmp_path / format).stat().st_size > 10
