"""One bad row never ends a job: it keeps its place, with an error that says what is not kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake import Engine

from slant.errors import TableError
from slant.tables.bulk import score_table

ENDINGS = ["jsonl", "csv", "parquet"]
ADDED = {
    "label",
    "label_name",
    "expected",
    "p0",
    "p1",
    "p2",
    "p3",
    "p4",
    "margin",
    "tokens",
    "truncated",
    "special_tokens",
    "error",
}


def scored(source: Path, ending: str, engine: object = None, **options: object) -> list[dict]:
    target = source.with_name(f"out.{ending}")
    score_table(engine or Engine(), source, target, window=2, force=True, **options)  # type: ignore[arg-type]
    if ending == "csv":
        with target.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, strict=True))
    if ending == "jsonl":
        return [json.loads(line) for line in target.read_bytes().splitlines()]
    return pq.read_table(target).to_pylist()


def json_lines(folder: Path, *late: str) -> Path:
    """Three good rows, these, and a good one."""
    path = folder / "in.jsonl"
    path.write_text("\n".join(['{"text": "a", "id": 1}'] * 3 + [*late, '{"text": "end", "id": 9}']), encoding="utf-8")
    return path


def only_late_rows_fail(rows: list[dict], late: int = 1, prefix: str = "") -> dict:
    """Checks that the other rows are scored, and returns the first late one."""
    assert len(rows) == 4 + late
    for index, row in enumerate(rows):
        assert bool(row[prefix + "error"]) == (3 <= index < 3 + late), row
        assert (row[prefix + "label"] in (None, "")) == (3 <= index < 3 + late), row
    assert rows[-1]["text"] == "end"
    return rows[3]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("name", "prefix"), [("label", ""), ("p4", ""), ("error", ""), ("x_label", "x_")])
def test_a_late_key_with_the_name_of_an_added_column(tmp_path: Path, ending: str, name: str, prefix: str) -> None:
    path = json_lines(tmp_path, json.dumps({"text": "b", "id": 2, name: "mine", "note": 5}))
    row = only_late_rows_fail(scored(path, ending, prefix=prefix), prefix=prefix)
    assert (row["text"], str(row["id"])) == ("b", "2")
    assert row[prefix + "error"].startswith("Not kept: ")
    assert f"'{name}'" in row[prefix + "error"]
    assert "--prefix" in row[prefix + "error"]
    if ending == "jsonl":
        assert row["note"] == 5
    else:
        assert "'note'" in row[prefix + "error"]
        assert "write jsonl" in row[prefix + "error"]
        assert row.keys() == {"text", "id", *(prefix + added for added in ADDED)}


def test_a_row_with_an_error_is_not_scored(tmp_path: Path) -> None:
    path = json_lines(tmp_path, '{"text": "b", "label": 1}', '{"text": "c", "late": 1}')
    assert score_table(Engine(), path, tmp_path / "out.jsonl", window=2, dedupe=False).tokens == 5
    summary = score_table(Engine(), path, tmp_path / "out.csv", window=2, dedupe=False)
    assert (summary.rows, summary.errors, summary.tokens) == (6, 2, 4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_that_is_not_unicode(tmp_path: Path, ending: str) -> None:
    for early in (False, True):
        path = json_lines(tmp_path, '{"text": "b", "id": 2, "\\ud800x": "mine"}')
        if early:
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines[3:4], *lines[:3], *lines[4:]]))
        rows = scored(path, ending)
        row = only_late_rows_fail([*rows[1:4], rows[0], *rows[4:]] if early else rows)
        assert (row["text"], str(row["id"])) == ("b", "2")
        assert "'\\ud800x'" in row["error"]
        assert "not valid Unicode" in row["error"]
        assert ("Not kept: '\\ud800x'" in row["error"]) == (ending != "jsonl")
        assert row.get("\ud800x") == ("mine" if ending == "jsonl" else None)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_that_is_there_twice(tmp_path: Path, ending: str) -> None:
    lines = ('{"text": "b", "text": "c", "id": 2}', '{"text": "b", "id": {"a": 1, "a": 2}}')
    rows = scored(json_lines(tmp_path, *lines), ending)
    only_late_rows_fail(rows, late=2)
    for row, line, name in zip(rows[3:], lines, ("text", "a"), strict=False):
        assert row["text"] == line, "both values are kept"
        assert f"'{name}' is there twice" in row["error"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_nested_values_survive(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a", "x": {"\\ud800": ["\\udfff", {"label": 1}], "é": null}}\n')
    (row,) = scored(path, ending)
    assert not row["error"]
    found = row["x"] if ending == "jsonl" else json.loads(row["x"])
    assert found == {"\ud800": ["\udfff", {"label": 1}], "é": None}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("source", ENDINGS)
@pytest.mark.parametrize("name", ["label", "tokens", "p1"])
def test_known_clashes_are_told_before_the_model_is_loaded(tmp_path: Path, source: str, ending: str, name: str) -> None:
    path = tmp_path / f"in.{source}"
    if source == "csv":
        path.write_text(f"text,x_{name}\na,1\n")
    elif source == "jsonl":
        path.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": "a", f"x_{name}": 1}) + "\n")
    else:
        pq.write_table(pa.table({"text": ["a"], f"x_{name}": [1]}), path)
    with pytest.raises(TableError, match=f"already has a column 'x_{name}'.*--prefix"):
        scored(path, ending, lambda: pytest.fail("loads a model for nothing"), prefix="x_")
    assert str(scored(path, ending, prefix="y_")[-1][f"x_{name}"]) == "1"


def test_a_prefix_that_is_not_unicode(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="prefix"):
        scored(json_lines(tmp_path), "jsonl", lambda: pytest.fail("loads a model for nothing"), prefix="\udcff")


@pytest.mark.parametrize("ending", ENDINGS)
def test_label_names_that_are_not_unicode(tmp_path: Path, ending: str) -> None:
    rows = scored(json_lines(tmp_path), ending, Engine(labels=("\ud800", "\udfff")))
    assert rows[0]["label_name"] in ("\ud800", "\udfff", "\\ud800", "\\udfff")


def test_what_a_long_csv_row_loses_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,id\na,1,lost,too\n")
    (row,) = scored(tmp_path / "in.csv", "jsonl")
    assert (row["text"], row["id"]) == ("a", "1")
    assert "Not kept: 'lost', 'too'" in row["error"]


def strings(*values: bytes) -> pa.Array:
    """A column of strings that no one has checked."""
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("encoded", [False, True])
def test_parquet_strings_that_are_not_utf8(tmp_path: Path, ending: str, encoded: bool) -> None:
    columns = {"text": strings(b"a", b"b\xff", b"c"), "x": strings(b"\xfe", b"y", b"z")}
    table = pa.table({name: column.dictionary_encode() if encoded else column for name, column in columns.items()})
    pq.write_table(table, tmp_path / "in.parquet")
    if ending == "parquet":
        score_table(Engine(), tmp_path / "in.parquet", tmp_path / "out.parquet", window=2)
        table = pq.read_table(tmp_path / "out.parquet")
        assert [table.column(name).cast(pa.binary()).to_pylist() for name in ("text", "x")] == [
            [b"a", b"b\xff", b"c"],
            [b"\xfe", b"y", b"z"],
        ]
        errors = table.column("error").to_pylist()
    else:
        rows = scored(tmp_path / "in.parquet", ending)
        assert [(row["text"], row["x"]) for row in rows] == [("a", "\\xfe"), ("b\\xff", "y"), ("c", "z")]
        errors = [row["error"] or None for row in rows]
    assert errors == [None, "The text is not valid UTF-8.", None]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_parquet_values_that_python_cannot_hold(tmp_path: Path, ending: str) -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "days": pa.array([[2**30], [1]], pa.list_(pa.date32())),
            "far": pa.array([[2**61], [1]], pa.list_(pa.timestamp("us"))),
            "mars": pa.array([1, None], pa.timestamp("us", "Mars/Base")),
            "same": pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["k", "k"]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    first, second = scored(tmp_path / "in.parquet", ending)
    assert not first["error"]
    assert str(2**30) in str(first["days"])
    assert str(2**61) in str(first["far"])
    assert "1970-01-01 00:00:00.000001Z" in first["mars"]
    assert "1" in first["same"]
    assert "3" in first["same"]
    assert "1970-01-02" in str(second["days"])
    assert second["mars"] in (None, "")
