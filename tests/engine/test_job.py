"""Jobs that are stopped and go on: the same bytes, nothing lost, nothing scored twice."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fake import Engine

from child import python
from slant.errors import TableError
from slant.scores import Score
from slant.tables import lock, parquet_format
from slant.tables.bulk import Summary, score_table
from slant.tables.job import LOCK, MANIFEST, Job
from slant.tables.store import ScoreStore

SCRIPT = Path(__file__).with_name("kill_job.py")


class Watched(Engine):
    """Notes the texts that it scores; ``stop``: raises before that one."""

    def __init__(self, stop: str | None = None, name: str = "fake", **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[str] = []
        self.stop, self.name = stop, name

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "model": self.name}

    def answer(self, text: object) -> Score:
        if isinstance(text, str):
            if text == self.stop:
                raise KeyboardInterrupt
            self.seen.append(text)
        return super().answer(text)


class Failing(Watched):
    """Answers NaN to texts with this word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def answer(self, text: object) -> Score:
        found = super().answer(text)
        return Score.not_finite(len(self.labels)) if isinstance(text, str) and self.word in text else found


def lines(path: Path, rows: int = 20, first: int = 0) -> Path:
    path.write_text("".join(f"text {i}\n" for i in range(first, first + rows)))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stopped(source: Path | list[Path] | str, target: Path, at: str = "text 9", **options: Any) -> None:
    """A job of windows of 4 rows that was interrupted."""
    with pytest.raises(KeyboardInterrupt):
        score_table(Watched(at), source, target, **{"window": 4, **options})


# Killed at any moment


def test_killed_jobs_go_on_with_the_same_bytes(tmp_path: Path) -> None:
    killed, twice, _ = python(SCRIPT, tmp_path, 200, 25, 20, "csv", 3).stdout.splitlines()[-1].split(maxsplit=2)
    assert int(killed) == 20
    assert int(twice) <= 20


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "seed"), [("csv", 11), ("jsonl.gz", 12), ("parquet", 13)])
def test_many_killed_jobs(tmp_path: Path, ending: str, seed: int) -> None:
    done = python(SCRIPT, tmp_path, 20_000, 1024, 70, ending, seed).stdout
    print(done)
    for place in ("scoring", "joining", "writing the manifest", "removing parts"):
        assert place in done


# What a stopped job leaves, and when it goes on


def test_a_stopped_job_scores_only_what_is_missing(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.txt")
    whole = Watched()
    score_table(whole, source, tmp_path / "whole.csv", window=4)
    stopped(source, tmp_path / "out.csv")
    assert names(tmp_path / "out.csv.parts") == {
        MANIFEST, LOCK, "00000000.part", "00000001.part", "_scores.sqlite"
    }  # fmt: skip
    engine = Watched()
    steps: list[Summary] = []
    summary = score_table(engine, source, tmp_path / "out.csv", window=4, progress=steps.append)
    assert engine.seen == whole.seen[8:]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert names(tmp_path) == {"in.txt", "out.csv", "whole.csv"}
    assert (summary.rows, summary.errors, summary.tokens, summary.earlier) == (20, 0, 24, 8)
    assert summary.figures["rows"] == summary.figures["scored"] == 20
    assert [step.rows for step in steps] == list(range(9, 21))
    assert summary.done == 1


def test_a_small_table_leaves_nothing_but_its_output(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.txt")
    seen: set[str] = set()
    score_table(Watched(), source, tmp_path / "out.csv", window=20, progress=lambda _: seen.update(names(tmp_path)))
    assert not [name for name in seen if "parts" in name]
    assert names(tmp_path) == {"in.txt", "out.csv"}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"engine": Watched(name="another")}, "model was fake, is another"),
    "labels": ({"engine": Watched(labels=("no", "yes"))}, "labels was .*, is "),
    "window": ({"window": 5}, "window was 4, is 5"),
    "prefix": ({"prefix": "x_"}, "prefix was , is x_"),
    "encoding": ({"encoding": "latin-1"}, "encoding was utf-8, is latin-1"),
    "format": ({"output_format": "tsv"}, "output-format was csv, is tsv"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_settings_are_refused_and_named(tmp_path: Path, name: str) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    stopped(source, target)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out.csv.parts").iterdir() if path.suffix == ".part"}
    changed, message = CHANGES[name]
    options: dict[str, Any] = {"engine": Watched(), "source": source, "target": target, "window": 4, **changed}
    with pytest.raises(TableError, match=f"{message}.*--restart"):
        score_table(**options)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out.csv.parts").iterdir() if path.suffix == ".part"}
    assert after == before
    options["engine"].seen.clear()
    assert score_table(**options, restart=True).rows == 20
    assert len(options["engine"].seen) == 20
    assert names(tmp_path) == {"in.txt", "out.csv"}


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    stopped(source, target)
    monkeypatch.setattr("slant.tables.bulk.__version__", "99")
    with pytest.raises(TableError, match=r"version was .*, is 99"):
        score_table(lambda: pytest.fail("loads a model for nothing"), source, target, window=4)


def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    stopped(source, target)
    times = source.stat()
    source.write_bytes(source.read_bytes().replace(b"text 1\n", b"text 7\n"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert source.stat().st_size == times.st_size
    assert source.stat().st_mtime_ns == times.st_mtime_ns
    with pytest.raises(TableError, match=r"in\.txt has other content"):
        score_table(lambda: pytest.fail("loads a model for nothing"), source, target, window=4)


def test_an_edit_while_the_job_runs_is_noticed(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    times = source.stat()

    class Editing(Watched):
        def answer(self, text: object) -> Score:
            if text == "text 9":
                source.write_bytes(source.read_bytes().replace(b"text 1\n", b"text 7\n"))
                os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
            return super().answer(text)

    with pytest.raises(TableError, match="changed while it was scored"):
        score_table(Editing(), source, target, window=4)
    assert not target.exists()


def test_files_that_come_or_go_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        lines(tmp_path / "in" / f"{i}.txt", 10, 10 * i)
    stopped(tmp_path / "in", tmp_path / "out.csv", "text 19")
    (tmp_path / "in" / "2.txt").rename(tmp_path / "kept")
    with pytest.raises(TableError, match=r"inputs: 3 files were, 2 are \(2.txt is gone\)"):
        score_table(Watched(), tmp_path / "in", tmp_path / "out.csv", window=4)
    (tmp_path / "kept").rename(tmp_path / "in" / "2.txt")
    lines(tmp_path / "in" / "3.txt")
    with pytest.raises(TableError, match=r"inputs: 3 files were, 4 are \(3.txt is new\)"):
        score_table(Watched(), tmp_path / "in", tmp_path / "out.csv", window=4)
    (tmp_path / "in" / "3.txt").unlink()
    (tmp_path / "in").rename(tmp_path / "moved")  # what counts is the content
    assert score_table(Watched(), tmp_path / "moved", tmp_path / "out.csv", window=4).rows == 30


def test_parts_that_are_damaged_or_gone_are_scored_again(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt", 40), tmp_path / "out.csv"
    score_table(Watched(), source, tmp_path / "whole.csv", window=4)
    for damage in ("cut", "gone", "footer"):
        stopped(source, target, "text 30")
        part = tmp_path / "out.csv.parts" / "00000002.part"
        if damage == "gone":
            part.unlink()
        else:
            content = part.read_bytes()
            part.write_bytes(content[:-3] if damage == "cut" else content[:-20] + b"\xff" * 20)
        engine = Watched()
        score_table(engine, source, target, window=4)
        # The scores of its texts are still there, so its window is written again and not scored.
        assert engine.seen == [f"text {i}" for i in range(28, 40)]
        assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()
        target.unlink()


def test_a_part_whose_rows_are_damaged_is_found_when_joined(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    stopped(source, target)
    part = tmp_path / "out.csv.parts" / "00000001.part"
    content = bytearray(part.read_bytes())
    content[5] ^= 1
    part.write_bytes(content)
    with pytest.raises(TableError, match=r"00000001\.part was damaged, and is removed"):
        score_table(Watched(), source, target, window=4)
    assert not target.exists()
    assert score_table(Watched(), source, target, window=4).rows == 20
    assert [row.split(",")[0] for row in target.read_text().splitlines()[1:]] == [f"text {i}" for i in range(20)]


def test_an_output_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    stopped(source, target)
    target.write_text("precious")
    with pytest.raises(TableError, match=r"exists.*--force"):
        score_table(Watched(), source, target, window=4)
    assert target.read_text() == "precious"
    assert score_table(Watched(), source, target, window=4, force=True).rows == 20


def test_a_job_that_was_begun_with_force_goes_on_without(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    target.write_text("old")
    stopped(source, target, force=True)
    assert target.read_text() == "old"
    assert score_table(Watched(), source, target, window=4).rows == 20


def test_killed_twice_after_the_output_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once between the output's new name and the end of its job, and once more where that job is taken up."""
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("remove", "end", "join", "remove"):
        with monkeypatch.context() as patch:
            patch.setattr(Job, name, killed)
            with pytest.raises(KeyboardInterrupt):
                score_table(Watched(), source, target, window=4)
    assert target.exists()
    assert score_table(Watched(), source, target, window=4).rows == 20
    assert names(tmp_path) == {"in.txt", "out.csv"}


def test_folders_that_are_in_the_way(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.txt")
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "mine").write_text("precious")
    (tmp_path / "b.csv.parts").write_text("precious")
    with pytest.raises(TableError, match="a folder of something else"):
        score_table(Watched(), source, tmp_path / "out.csv", window=4)
    with pytest.raises(TableError, match="is a file, and the job's folder would have its name"):
        score_table(Watched(), source, tmp_path / "b.csv", window=4)
    assert (tmp_path / "out.csv.parts" / "mine").read_text() == "precious"
    stopped(source, tmp_path / "c.csv")
    (tmp_path / "c.csv.parts" / MANIFEST).write_text("{")
    with pytest.raises(TableError, match="is damaged; begin the job anew with --restart"):
        score_table(Watched(), source, tmp_path / "c.csv", window=4)
    assert score_table(Watched(), source, tmp_path / "c.csv", window=4, restart=True).rows == 20


def test_only_files_can_go_on(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.txt")
    with pytest.raises(TableError, match="only a job from files to a file can go on"):
        score_table(Watched(), source, "/dev/null", output_format="csv", restart=True)
    with pytest.raises(TableError, match=r"no unfinished job of .* has errors to retry"):
        score_table(Watched(), source, tmp_path / "out.csv", retry_errors=True)


# One process at a time

HOLDING = """
import sys, time
from fake import Engine
from slant.tables.bulk import score_table
score_table(Engine(delay=float(sys.argv[3])), sys.argv[1], sys.argv[2], window=4)
"""


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    kept = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", HOLDING, source, target, "60"], env=kept) as process:
        while not (tmp_path / "out.csv.parts" / MANIFEST).exists():
            assert process.poll() is None
        with pytest.raises(TableError, match=rf"out\.csv is being written by another job \(process {process.pid} on "):
            score_table(lambda: pytest.fail("loads a model for nothing"), source, target, window=4)
        with pytest.raises(TableError, match="is being written by another job"):
            score_table(lambda: pytest.fail("loads a model for nothing"), source, target, window=4, restart=True)
        assert process.poll() is None
        process.kill()
    assert score_table(Watched(), source, target, window=4).rows == 20


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path) -> None:
    first = lock.hold(tmp_path / "job" / "lock", "out")
    with pytest.raises(TableError, match="another job"):
        lock.hold(tmp_path / "job" / "lock", "out")
    (tmp_path / "job" / "lock").unlink()
    with lock.hold(tmp_path / "job" / "lock", "out"), pytest.raises(TableError, match="another job"):
        lock.hold(tmp_path / "job" / "lock", "out")
    first.close()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import errno
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert score_table(Watched(), lines(tmp_path / "in.txt"), tmp_path / "out.csv", window=4).rows == 20
    assert "has no locks; make sure that no other job writes" in caplog.text


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
    lines(folder / "d.txt", 10, 10)
    whole = score_table(Watched(), folder, tmp_path / "whole.jsonl", window=64)
    assert len(whole.problems) == 2
    assert "b.txt.gz is damaged after line" in whole.problems[0]
    assert "c.parquet is not a readable Parquet file" in whole.problems[1]
    texts = [json.loads(line)["text"] for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert texts[:10] + texts[-10:] == [f"text {i}" for i in range(20)]
    assert 400 < len(texts) < 2000
    assert caplog.text.count("c.parquet is not") == 1
    stopped(folder, tmp_path / "out.jsonl", "text 15", window=64)
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
        assert seen[seen.index(4) :] == [4, 5], "of 28 finished rows no group is read again"
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


# Errors of rows


def test_errors_are_retried_and_nothing_else(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out"
    score_table(Watched(), source, tmp_path / "right", window=4, parts=True)
    assert score_table(Failing("7"), source, target, window=4, parts=True).errors == 2
    engine = Watched()
    assert score_table(engine, source, target, window=4, parts=True, retry_errors=True).errors == 0
    assert engine.seen == ["text 7", "text 17"]
    assert pq.read_table(target).equals(pq.read_table(tmp_path / "right"))


def test_errors_of_a_stopped_job_are_retried(tmp_path: Path) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    with pytest.raises(TableError, match="2 rows have an error, and --max-errors allows 1: the job ends here"):
        score_table(Failing("7"), source, target, window=4, max_errors=1)
    with pytest.raises(TableError, match="2 rows have an error"):
        score_table(Watched(), source, target, window=4, max_errors=1)
    engine = Watched()
    assert score_table(engine, source, target, window=4, max_errors=1, retry_errors=True).errors == 0
    assert engine.seen == ["text 7", "text 17"]
    score_table(Watched(), source, tmp_path / "right.csv", window=4)
    assert target.read_bytes() == (tmp_path / "right.csv").read_bytes()


def test_a_pipe_stops_at_too_many_errors(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="--max-errors allows 0"):
        score_table(Failing("7"), lines(tmp_path / "in.txt"), "/dev/null", output_format="csv", max_errors=0)


def test_a_broken_model_leaves_no_job(tmp_path: Path) -> None:
    from slant.errors import CheckpointError

    store = tmp_path / "scores.sqlite"
    with pytest.raises(CheckpointError, match="answered every text so far"):
        score_table(Failing("text"), lines(tmp_path / "in.txt"), tmp_path / "out.csv", window=4, store=store)
    assert names(tmp_path) == {"in.txt", "scores.sqlite"}
    assert ScoreStore(store, b"", Engine().labels)._sql.execute("SELECT count(*) FROM scores").fetchone() == (0,)


# Identical texts


def test_identical_texts_are_scored_once(tmp_path: Path) -> None:
    texts = [f"text {i % 6}" for i in range(20)] + ["", ""]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)))
    outputs = []
    for window in (4, 7, 100):
        engine, target = Watched(), tmp_path / f"out{window}.jsonl"
        summary = score_table(engine, tmp_path / "in.jsonl", target, window=window)
        assert sorted(engine.seen) == ["", *(f"text {i}" for i in range(6))]
        assert (summary.rows, summary.errors) == (22, 0)
        assert (summary.figures["scored"], summary.figures["duplicates"]) == (7, 15)
        outputs.append(target.read_bytes())
    engine = Watched()
    score_table(engine, tmp_path / "in.jsonl", tmp_path / "all.jsonl", window=4, dedupe=False)
    assert len(engine.seen) == 22
    assert {*outputs, (tmp_path / "all.jsonl").read_bytes()} == {outputs[0]}


def test_an_engine_that_reads_ahead_scores_identical_texts_once(tmp_path: Path) -> None:
    class Ahead(Watched):
        def stream(self, texts: Iterable[object], **options: Any) -> Iterator[Score]:
            yield from super().stream(list(texts), **options)  # as a GPU has two windows in flight

    (tmp_path / "in.txt").write_text("a\nb\na\nc\nb\na\n" * 3)
    engine = Ahead()
    summary = score_table(engine, tmp_path / "in.txt", tmp_path / "out.csv", window=2)
    assert sorted(engine.seen) == ["a", "b", "c"]
    assert summary.figures["duplicates"] == 15
    score_table(Watched(), tmp_path / "in.txt", tmp_path / "plain.csv", window=2)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_a_store_is_used_by_many_jobs(tmp_path: Path) -> None:
    store = tmp_path / "scores.sqlite"
    first, second, other = Watched(), Watched(), Watched(name="another")
    score_table(first, lines(tmp_path / "a.txt", 10), tmp_path / "a.csv", store=store)
    summary = score_table(second, lines(tmp_path / "b.txt", 10, 5), tmp_path / "b.csv", store=store, window=3)
    assert second.seen == [f"text {i}" for i in range(10, 15)]
    assert (summary.figures["scored"], summary.figures["stored"], summary.figures["duplicates"]) == (5, 5, 0)
    score_table(other, tmp_path / "b.txt", tmp_path / "c.csv", store=store)
    assert len(other.seen) == 10, "another model's answers are its own"
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
    failed = Failing("77")
    assert score_table(failed, lines(tmp_path / "d.txt", 2, 76), tmp_path / "d.csv", store=store).errors == 1
    again = Watched()
    assert score_table(again, tmp_path / "d.txt", tmp_path / "d.csv", store=store, force=True).errors == 1
    assert again.seen == []
    options: dict[str, Any] = {"store": store, "force": True, "retry_errors": True}
    assert score_table(again, tmp_path / "d.txt", tmp_path / "d.csv", **options).errors == 0
    assert again.seen == ["text 77"]


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.txt")
    (tmp_path / "no store").write_text("text" * 1000)
    with pytest.raises(TableError, match="file is not a database; see whether"):
        score_table(Watched(), source, tmp_path / "out.csv", store=tmp_path / "no store")
    with pytest.raises(TableError, match="does not exist"):
        score_table(Watched(), source, tmp_path / "out.csv", store=tmp_path / "no" / "store")
    with pytest.raises(TableError, match="needs dedupe"):
        score_table(Watched(), source, tmp_path / "out.csv", store=tmp_path / "s", dedupe=False)
    assert names(tmp_path) == {"in.txt", "no store"}


def test_a_score_comes_back_from_the_store_as_it_was(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "s", b"model", ("no", "yes"))
    logits = np.array([0.1, 1e-30], np.float32)
    counts = {"tokens": 7, "dropped": 3, "special_tokens": 1}
    scores = [
        Score.of(logits, np.array([0.3, 0.7], np.float32), ("no", "yes"), stable_margin=margin, **counts)
        for margin in (None, 0.1, 0.9)
    ]
    scores += [Score.failed("bad \ud800", 2), Score.not_finite(2)]
    keys = [store.key(f"{i} \ud800") for i in range(5)]
    store.put(dict(zip(keys, scores, strict=True)), ("12345678", 2**31))
    store.close()
    found = ScoreStore(tmp_path / "s", b"model", ("no", "yes")).get(keys)
    assert [found[key] for key in keys] == [(score, ("12345678", 2**31)) for score in scores]
    assert ScoreStore(tmp_path / "s", b"other", ("no", "yes")).get([]) == {}
    assert zlib.crc32(keys[0])  # 16 bytes
    assert len(keys[0]) == 16
    assert ScoreStore("", b"other", ("no", "yes")).key("0 \ud800") != keys[0]
