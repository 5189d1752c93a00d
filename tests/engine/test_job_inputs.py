"""Several inputs as one table, and outputs that are left in parts."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from watched import Watched, lines, names, stopped

from slant.errors import TableError
from slant.tables import parquet_format
from slant.tables.bulk import score_table
from slant.tables.job import LOCK, MANIFEST

# Several inputs


def test_files_folders_and_patterns_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    lines(folder / "b.txt", 3, 10)
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"id,text\n1,text 1\n2,text 2\n"))
    pq.write_table(pa.table({"text": ["text 5"], "n": [7]}), folder / "deep" / "c.parquet")
    for left_out in (folder / "notes.md", folder / ".hidden.csv", folder / "_skipped.csv"):
        left_out.write_text("text\nno\n")
    lines(tmp_path / "x1.txt", 1, 20)
    lines(tmp_path / "x2.txt", 1, 21)
    expected = ["text 20", "text 21", "text 1", "text 2", "text 10", "text 11", "text 12", "text 5"]
    for window in (2, 3, 100):
        for ending in ("jsonl", "csv", "parquet"):
            target = tmp_path / f"out.{ending}"
            summary = score_table(Watched(), [str(tmp_path / "x?.txt"), folder], target, window=window, force=True)
            assert (summary.rows, summary.errors, summary.problems) == (8, 0, ())
            if ending == "jsonl":
                rows = [json.loads(line) for line in target.read_text().splitlines()]
            else:
                table = pq.read_table(target) if ending == "parquet" else pyarrow.csv.read_csv(target)
                rows = table.to_pylist()
                assert table.column_names[:3] == ["text", "id", "n"]
                assert str(rows[2]["id"]) == "1"
                assert rows[7]["n"] == 7
                assert rows[0]["n"] in (None, "")
            assert [row["text"] for row in rows] == expected


def test_a_corrupt_file_among_good_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines(folder / "a.txt", 10)
    good = gzip.compress(b"".join(b"%r\n" % random.Random(i).randbytes(40) for i in range(2000)))
    (folder / "b.txt.gz").write_bytes(good[: len(good) // 2])
    (folder / "c.parquet").write_bytes(b"PAR1 not really PAR1")
    lines(folder / "d.txt", 200, 10)
    whole = score_table(Watched(), folder, tmp_path / "whole.jsonl", window=64)
    assert len(whole.problems) == 2
    assert "b.txt.gz is damaged after line" in whole.problems[0]
    assert "c.parquet is not a readable Parquet file" in whole.problems[1]
    texts = [json.loads(line)["text"] for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert texts[:10] + texts[-200:] == [f"text {i}" for i in range(210)]
    assert 400 < len(texts) < 2000
    assert caplog.text.count("c.parquet is not") == 1
    stopped(folder, tmp_path / "out.jsonl", "text 200", window=64)
    assert score_table(Watched(), folder, tmp_path / "out.jsonl", window=64).problems == whole.problems
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_inputs_that_do_not_go_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": [[1]]}), tmp_path / "b.parquet")
    lines(tmp_path / "c.txt")
    out = tmp_path / "out.csv"
    for given, message in [
        ([tmp_path / "a.parquet", tmp_path / "b.parquet"], r"b\.parquet does not fit the files before it"),
        ([tmp_path / "c.txt", tmp_path / "c.txt"], r"c\.txt is named twice"),
        ([tmp_path / "c.txt", "-"], "- is no file, and can only be read alone"),
        ([], "there is no input"),
        ([tmp_path / "missing.csv", tmp_path / "nothing.csv"], r"missing\.csv cannot be read"),
    ]:
        with pytest.raises(TableError, match=message):
            score_table(lambda: pytest.fail("loads a model for nothing"), given, out)
    with pytest.raises(TableError, match="is the input itself"):
        score_table(Watched(), tmp_path, tmp_path / "c.txt", output_format="csv", force=True)


def test_the_output_may_stand_in_the_folder_that_is_read(tmp_path: Path) -> None:
    lines(tmp_path / "in.txt")
    stopped(tmp_path, tmp_path / "out.csv")
    assert score_table(Watched(), tmp_path, tmp_path / "out.csv", window=4).rows == 20


def test_what_is_found_out_about_a_file_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.csv").write_text("text;id\n" + "".join(f"text {i};{i}\n" for i in range(20)))
    with caplog.at_level(logging.WARNING, "slant"):
        score_table(Watched(), tmp_path / "in.csv", tmp_path / "out.csv", window=4)
    assert caplog.text.count("semicolons") == 1


@pytest.mark.parametrize("groups", [1, 7, 100])
def test_a_parquet_file_is_gone_on_with_by_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    kinds = pa.array([f"kind {i % 3}" for i in range(40)]).dictionary_encode()
    table = pa.table({"text": [f"text {i}" for i in range(40)], "n": list(range(40)), "kind": kinds})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=groups)
    score_table(Watched(), tmp_path / "in.parquet", tmp_path / "whole.parquet", window=4)
    stopped(tmp_path / "in.parquet", tmp_path / "out.parquet", "text 30")
    read = parquet_format.pq.ParquetFile.iter_batches
    seen: list[int] = []

    def noted(file: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        seen.extend(options["row_groups"])
        return read(file, **options)

    monkeypatch.setattr(parquet_format.pq.ParquetFile, "iter_batches", noted)
    score_table(Watched(), tmp_path / "in.parquet", tmp_path / "out.parquet", window=4)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    if groups == 7:
        assert seen == [0, 1, 4, 5], "two windows are looked at, and of 28 finished rows no group is read again"
    result = pq.read_table(tmp_path / "out.parquet")
    assert result.select(table.column_names).equals(table)


# A dataset of parts


def test_a_dataset_is_left_in_parts(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out"
    score_table(Watched(), source, tmp_path / "whole.parquet", window=4)
    score_table(Watched(), source, tmp_path / "other", window=4, parts=True)
    stopped(source, target, parts=True)
    assert [row["text"] for row in pq.read_table(target).to_pylist()] == [f"text {i}" for i in range(8)]
    summary = score_table(Watched(), source, target, window=4, parts=True)
    assert pq.read_table(target).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert {name for name in names(target) if name[0] in "._"} == {MANIFEST, LOCK}
    parts = sorted(path.name for path in target.glob("*.parquet"))
    assert parts == [f"part-{i:08}.parquet" for i in range(5)]
    assert all((target / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in parts)
    again = Watched()
    found = score_table(again, source, target, window=4, parts=True)  # it is complete
    assert (found.figures, again.seen) == (summary.figures, [])
    assert score_table(again, source, target, window=4, parts=True, force=True).rows == 20
    assert len(again.seen) == 20


def test_datasets_of_no_rows_and_of_other_folders(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n")
    score_table(Watched(), tmp_path / "in.csv", tmp_path / "out", parts=True)
    assert pq.read_table(tmp_path / "out").num_rows == 0
    assert "label" in pq.read_schema(tmp_path / "out" / "part-00000000.parquet").names
    (tmp_path / "mine").mkdir()
    lines(tmp_path / "mine" / "a.txt")
    with pytest.raises(TableError, match="a folder of something else"):
        score_table(Watched(), tmp_path / "in.csv", tmp_path / "mine", parts=True, force=True)
    with pytest.raises(TableError, match="is a file; with --parts name a folder"):
        score_table(Watched(), tmp_path / "in.csv", tmp_path / "mine" / "a.txt", parts=True)
