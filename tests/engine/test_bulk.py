"""Tables in and out: nothing lost, nothing reordered, nothing half-written."""

from __future__ import annotations

import csv
import errno
import gc
import json
import os
import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake import Engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slant.errors import SlantError, TableError
from slant.scores import Score
from slant.tables import parquet_format
from slant.tables.bulk import Summary, score_table

ANSWERS = [
    "label", "label_name", "expected", "p0", "p1", "p2", "p3", "p4", "margin",
    "tokens", "truncated", "special_tokens", "error",
]  # fmt: skip
AWKWARD = [
    "plain",
    'quote " and ""',
    "a,b",
    "two\nlines",
    "carriage\rreturn",
    "\r\n",
    " edges ",
    "nul\0",
    "שלום",
    "🙂\u2028",
    "",
]


def write(path: Path, rows: list[dict], row_group: int | None = None) -> Path:
    """A table as another program would write it."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group)
    else:
        path.write_bytes("".join(row["text"] + "\n" for row in rows).encode())
    return path


def read(path: Path) -> list[dict]:
    """A table as another program would read it; all cells of CSV are strings."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, strict=True))
    if path.suffix == ".jsonl":
        return [json.loads(line, parse_constant=pytest.fail) for line in path.read_bytes().splitlines()]
    return pq.read_table(path).to_pylist()


def run(source: Path, ending: str = "jsonl", engine: Engine | None = None, **options: object) -> list[dict]:
    target = source.with_name(f"out.{ending}")
    score_table(engine or Engine(), source, target, force=True, **options)
    return read(target)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "in.csv", [{"text": f"text {i}", "id": f"{i:03}"} for i in range(10)])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet", "txt"])
def test_every_format_into_every_other(tmp_path: Path, source: str, ending: str) -> None:
    texts = [f"text {i}" for i in range(50)] if source == "txt" else AWKWARD * 3
    keys = {} if source == "txt" else {"id": "007", "exp": "1e5", "empty": ""}
    path = write(tmp_path / f"in.{source}", [{**keys, "text": text} for text in texts])
    engine = Engine()
    rows = run(path, ending, engine, window=7)
    assert [row["text"] for row in rows] == texts
    for row, text in zip(rows, texts, strict=True):
        expected = engine.answer(text)
        assert list(row) == [*(keys or ()), "text", *ANSWERS]
        assert {key: row[key] for key in keys} == keys
        assert int(row["label"]) == expected.label
        assert row["label_name"] == expected.label_name
        assert [float(row[f"p{i}"]) for i in range(5)] == pytest.approx(expected.probabilities.tolist(), rel=1e-7)
        assert float(row["expected"]) == pytest.approx(expected.expected, rel=1e-6)
        assert float(row["margin"]) == pytest.approx(expected.margin, rel=1e-6)
        assert int(row["tokens"]) == expected.tokens
        assert row["truncated"] in (False, "false")
        assert not row["error"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_any_text_survives(tmp_path: Path, ending: str, texts: list[str]) -> None:
    source = write(tmp_path / f"in.{ending}", [{"text": text, "copy": text} for text in texts])
    for row, text in zip(run(source, ending), texts, strict=True):
        assert (row["text"], row["copy"]) == (text, text)


def test_float32_is_written_as_short_as_it_can_be(table: Path) -> None:
    p = run(table)[0]["p0"]
    assert len(str(p)) < 13
    assert float(Engine().answer("text 0").probabilities[0]) == pytest.approx(p, rel=1e-7)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_rows(tmp_path: Path, count: int) -> None:
    (tmp_path / "in.txt").write_text("".join(f"word{i}\n" for i in range(count)))
    start = time.process_time()
    summary = score_table(Engine(), tmp_path / "in.txt", tmp_path / "out.csv")
    assert time.process_time() - start < 3e-4 * count
    assert (summary.rows, summary.errors, summary.tokens) == (count, 0, count)
    with (tmp_path / "out.csv").open() as file:
        assert [row["text"] for row in csv.DictReader(file)] == [f"word{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("source", "ending"),
    [("csv", "csv"), ("jsonl", "jsonl"), ("parquet", "parquet"), ("parquet", "csv"), ("txt", "parquet")],
)
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, ending: str
) -> None:
    monkeypatch.setattr(parquet_format, "ROW_GROUP", 1 << 20)
    path = write(
        tmp_path / f"in.{source}", [{"text": random.randbytes(50_000).hex()} for _ in range(150)], row_group=10
    )
    run(path, ending, window=4)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    held = 0

    def look(_: Summary) -> None:
        nonlocal held
        held = max(held, pa.total_allocated_bytes() - before)

    score_table(Engine(), path, tmp_path / f"out.{ending}", window=4, force=True, progress=look)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6, "of a file of 15 MB"
    assert held < 10e6, "Parquet is read and written by row groups"


def test_input_bytes_of_csv_survive(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text,n\r\n007,"multi\r\nline",1e5\r\n\r\n 08 ,b,NaN\r\n')
    rows = run(path, "csv")
    assert [(row["id"], row["text"], row["n"]) for row in rows] == [
        ("007", "multi\r\nline", "1e5"),
        (" 08 ", "b", "NaN"),
    ]


def test_broken_csv_rows_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    lines = ["text,id", "one,1", "short", "a,b,c", '"bad"quote,4', "five,5", '"open,6', "seven,7"]
    path.write_text("\n".join(lines) + "\n")
    rows = run(path)
    assert [row["text"] for row in rows] == ["one", "short", "a", '"bad"quote,4', "five", '"open,6', "seven"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False, True, False]
    assert all(row["label"] is None and row["p0"] is None and row["tokens"] is None for row in rows if row["error"])
    assert "Line 3" in rows[1]["error"]
    assert "Line 4" in rows[2]["error"]
    assert "Line 5" in rows[3]["error"]
    assert "never closes" in rows[5]["error"]
    assert len(run(path, "csv")) == len(run(path, "parquet")) == 7


def test_broken_json_lines_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    deep = '{"text":' + "[" * 100_000
    lines = [
        '{"text": "one", "nested": {"a": [1, null]}}',
        "",
        "{bad",
        "[1]",
        deep,
        '{"id": 6}',
        '{"text": 7}',
        '{"text": "end"}',
    ]
    path.write_text("\n".join(lines))
    for ending in ("jsonl", "csv", "parquet"):
        rows = run(path, ending)
        assert [row.get("text") or None for row in rows[:3]] == ["one", "{bad", "[1]"]
        assert [bool(row["error"]) for row in rows] == [False, True, True, True, True, True, False]
        assert "Line 3" in rows[1]["error"], "an empty line is no row, and is counted"
        assert rows[6]["text"] == "end"
    rows = run(path)
    assert rows[0]["nested"] == {"a": [1, None]}
    assert rows[4]["id"] == 6
    assert "text" not in rows[4]
    assert rows[5]["text"] == 7
    assert json.loads(run(path, "csv")[0]["nested"]) == {"a": [1, None]}


def test_json_that_utf8_or_json_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "\\ud800 lone", "id": "\\ud800é", "x": [NaN, -Infinity, 1e999, 1.5], "n": 123456789012345678901}'
    )
    (row,) = run(path)
    assert row["text"] == "\ud800 lone"
    assert row["id"] == "\ud800é"
    assert row["x"] == [None, None, None, 1.5]
    assert row["n"] == 123456789012345678901
    assert row["error"]
    assert run(path, "csv")[0]["text"] == "\\ud800 lone"
    assert run(path, "parquet")[0]["text"] == "\\ud800 lone"


def test_a_column_that_comes_late(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"text": "a"}, {"text": "b"}, {"text": "c", "late": 1}, {"text": "d"}])
    assert [row["error"] for row in run(path, window=2)] == [None] * 4
    rows = run(path, "parquet", window=2)
    assert [row["text"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["error"] is None for row in rows] == [True, True, False, True]
    assert "late" in rows[2]["error"]


def test_parquet_types_survive(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None]).dictionary_encode(),
        "when": pa.array([1, None], pa.timestamp("ns")),
        "clock": pa.array([1, None], pa.time64("ns")),
        "price": pa.array([None, "1.50"]).cast(pa.decimal128(5, 2)),
        "list": pa.array([[1.5, float("nan")], []]),
        "raw": pa.array([b"\xff", None]),
        "small": pa.array([1, 2], pa.int8()),
    }
    source = pa.table(columns).replace_schema_metadata({"made": "here"})
    pq.write_table(source, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", "parquet")
    result = pq.read_table(tmp_path / "out.parquet")
    assert result.schema.field("list").type == source.schema.field("list").type
    exact = [name for name in columns if name != "list"]  # NaN equals nothing
    assert result.select(exact).equals(source.select(exact))
    assert result.schema.metadata[b"made"] == b"here"
    assert result.schema.field("p0").type == pa.float32()
    assert result.schema.field("label").type == pa.int64()
    first, second = run(tmp_path / "in.parquet")
    assert first["clock"] == "00:00:00.000000001"
    assert first["when"] == "1970-01-01 00:00:00.000000001"
    assert (first["list"], first["raw"], second["price"]) == ([1.5, None], "/w==", "1.50")
    assert second["error"] == "The text is missing."


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_only_a_header(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.csv").write_text("id,text\n")
    assert run(tmp_path / "in.csv", ending) == []
    if ending == "csv":
        assert (tmp_path / "out.csv").read_text() == ",".join(["id", "text", *ANSWERS]) + "\n"
    if ending == "parquet":
        assert pq.read_schema(tmp_path / "out.parquet").names == ["id", "text", *ANSWERS]


def test_other_numbers_of_labels(table: Path) -> None:
    (first, *_) = run(table, engine=Engine(labels=("no", "yes")))
    assert [name for name in first if name[0] == "p"] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"", "is empty"),
        ("in.jsonl", b"", "is empty"),
        ("in.txt", b"", "is empty"),
        ("in.csv", b"\n\n", "is empty"),
        ("in.csv", b"id,body\n1,a\n", "no column 'text'; its columns are: id, body"),
        ("in.csv", b"text,id,text\n", "two columns of the same name, 'text'"),
        ("in.csv", b'"text,id\n', "header cannot be read"),
        ("in.csv", b"text,label\n", "already has a column 'label'"),
        ("in.jsonl", b'{"body": 1}\n', "no column 'text'; its columns are: body"),
        ("in.jsonl", b'[{"text": "a"}]', "not one object a line; name it .json, or give --input-format json"),
        ("in.jsonl", b"text,id\n1,2\n", "not JSON Lines"),
        ("in.jsonl", b'{"text": "a", "p4": 1}\n', "already has a column 'p4'"),
        ("in.parquet", b"", "not a readable Parquet file"),
        ("in.parquet", b"PAR1 not really PAR1", "not a readable Parquet file"),
        ("in.yaml", b"{}", "the ending '.yaml' is none of"),
        ("in.csv", b"text\na\nb\ncaf\xe9\n", r"line 4 is not utf-8 \(byte 0xe9 at offset 12, .é. in cp1252\).*--enc"),
        ("in.txt", b"ok\n" * 5_000 + b"\xff\n", r"line 5001 is not utf-8 \(byte 0xff at offset 15000, 'ÿ' in"),
        ("in.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"line 2 is not utf-8 \(byte 0xff at offset 24, 'ÿ' in"),
        ("in.csv", "text\na\n".encode("utf-16-le"), "looks like UTF-16 without.*--encoding utf-16-le"),
        ("in.txt", b"cut short \xe2\x82", "line 1 is not utf-8"),
    ],
)  # fmt: skip
def test_unusable_inputs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        score_table(Engine(), tmp_path / name, tmp_path / "out.csv", window=3 if len(content) < 1000 else 300)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_without_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "in.parquet")
    with pytest.raises(TableError, match="holds int64, not text"):
        score_table(Engine(), tmp_path / "in.parquet", tmp_path / "out.csv")


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", [{"text": f"text number {i}"} for i in range(5000)])
    damaged = bytearray(path.read_bytes())
    damaged[40 : len(damaged) // 2] = b"\xff" * (len(damaged) // 2 - 40)
    path.write_bytes(damaged)
    with pytest.raises(TableError, match="damaged after row"):
        score_table(Engine(), path, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_another_encoding(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "in.csv").write_bytes("text\ncafé\n".encode(encoding))
        assert [row["text"] for row in run(tmp_path / "in.csv", "csv", encoding=encoding)] == ["café"]
    with pytest.raises(TableError, match="'klingon' is no encoding"):
        run(tmp_path / "in.csv", encoding="klingon")


def test_a_prefix_makes_room(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", [{"text": "a", "label": "mine"}])
    (row,) = run(path, prefix="slant_")
    assert row["label"] == "mine"
    assert row["slant_label_name"]


def test_unusable_targets(table: Path) -> None:
    folder = table.parent
    (folder / "old.csv").write_text("precious")
    (folder / "link.csv").symlink_to(table)
    for target, message in [
        (folder / "old.csv", "exists.*--force"),
        (table, "input itself"),
        (folder / "link.csv", "input itself"),
        (folder, "is a folder"),
        (folder / "nowhere" / "out.csv", "does not exist"),
        (folder / "out.xlsx", "is none of"),
        (folder / "out.txt", "lines hold no scores"),
    ]:
        with pytest.raises(TableError, match=message):
            score_table(lambda: pytest.fail("loads a model for nothing"), table, target)
    with pytest.raises(TableError, match="input itself"):
        score_table(Engine(), table, table, force=True)
    assert (folder / "old.csv").read_text() == "precious"
    score_table(Engine(), table, folder / "old.csv", force=True)
    assert len(read(folder / "old.csv")) == 10


def test_the_model_is_loaded_after_the_tables_are_checked(table: Path) -> None:
    def load() -> Engine:
        raise SlantError("no such model")

    with pytest.raises(TableError, match="no column"):
        score_table(load, table, table.with_name("out.csv"), text_column="body")
    with pytest.raises(SlantError, match="no such model"):
        score_table(load, table, table.with_name("out.csv"))


class Failing(Engine):
    """Fails in the middle of the table."""

    def stream(self, texts: Iterable[object], **options: Any) -> Iterator[Score]:
        for i, score in enumerate(super().stream(texts, **options)):
            if i == 5:
                raise KeyboardInterrupt
            yield score


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("window", [2, 20])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_an_interrupted_run_leaves_the_old_output_and_what_is_finished(table: Path, ending: str, window: int) -> None:
    (table.parent / f"out.{ending}").write_text("the old one")
    with pytest.raises(KeyboardInterrupt):
        run(table, ending, Failing(), window=window)
    job = [f"out.{ending}.parts"] if window == 2 else []
    assert sorted(path.name for path in table.parent.iterdir()) == ["in.csv", f"out.{ending}", *job]
    assert (table.parent / f"out.{ending}").read_text() == "the old one"
    gc.collect()  # a warning, if pyarrow's writer then ends a file that is gone


def test_an_interrupted_parquet_stream_is_not_ended(table: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_table(Failing(), table, output_format="parquet", window=2)
    gc.collect()
    out = capfdbinary.readouterr().out
    assert out[:4] == b"PAR1"
    assert not out[4:].endswith(b"PAR1")


def test_the_target_appears_only_when_complete(table: Path) -> None:
    seen: set[str] = set()

    def look(_: Summary) -> None:
        seen.update(path.name for path in table.parent.iterdir())

    run(table, "csv", window=1, progress=look)
    assert "out.csv" not in seen
    assert len(seen) == 2
    assert sorted(path.name for path in table.parent.iterdir()) == ["in.csv", "out.csv"]
    assert (table.parent / "out.csv").stat().st_mode == table.stat().st_mode


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", ["fsync", "write"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_full_disk(table: Path, monkeypatch: pytest.MonkeyPatch, ending: str, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    if call == "write":
        open_path = Path.open

        def open_full(path: Path, mode: str, *rest: object) -> object:
            file = open_path(path, mode, *rest)
            return FullFile(file) if mode == "xb" else file

        monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match="No space left") as caught:
        run(table, ending)
    assert "out" in str(caught.value.filename)
    assert [path.name for path in table.parent.iterdir()] == ["in.csv"]


class FullFile:
    """A file on a full disk."""

    def __init__(self, file: object) -> None:
        self.file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()  # type: ignore[attr-defined]

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_device_is_written_to_and_not_replaced(table: Path) -> None:
    score_table(Engine(), table, "/dev/null", output_format="parquet")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="No space left"):
        score_table(Engine(), table, "/dev/full", output_format="csv")


def test_progress_reaches_the_end(table: Path) -> None:
    for ending in ("csv", "parquet", "jsonl"):
        source = write(table.with_name(f"p.{ending}"), [{"text": f"text {i}"} for i in range(10)])
        steps: list[Summary] = []
        run(source, window=4, progress=steps.append)
        assert [step.rows for step in steps] == list(range(1, 11))
        done = [step.done for step in steps]
        assert done == sorted(done)
        assert done[-1] == 1
        assert steps[-1].tokens == 20
        assert steps[-1].texts_per_second > 0


def test_an_engine_that_loses_a_text_is_found_out(table: Path) -> None:
    class Losing(Engine):
        def stream(self, texts: Iterable[object], **options: Any) -> Iterator[Score]:
            yield from list(super().stream(texts, **options))[:-1]

    with pytest.raises(RuntimeError, match="fewer"):
        run(table, engine=Losing())


def test_what_a_killed_container_left_stops_no_later_run(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in every container
    left = table.with_name(".out.csv.1.part")
    left.write_text("half")
    assert len(run(table, "csv")) == 10


def test_a_pipe_that_the_shell_names(table: Path) -> None:
    reading, writing = os.pipe()
    score_table(Engine(), table, f"/dev/fd/{writing}", output_format="csv")
    os.close(writing)
    with os.fdopen(reading) as file:
        assert len(list(csv.DictReader(file))) == 10
