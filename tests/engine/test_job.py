"""Jobs that are stopped and go on: the same bytes, nothing lost, nothing scored twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from watched import Failing, Watched, lines, names, stopped

from child import python
from slant.errors import TableError
from slant.scores import Score
from slant.tables import lock
from slant.tables.bulk import Summary, score_table
from slant.tables.job import LOCK, MANIFEST, Job

SCRIPT = Path(__file__).with_name("kill_job.py")


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
            part.write_bytes(content[:-3] if damage == "cut" else content.replace(b'"rows": 4', b'"rows": 5'))
        engine = Watched()
        assert score_table(engine, source, target, window=4).figures["rows"] == 40
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


def test_a_retry_that_is_stopped_may_replace_its_own_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = lines(tmp_path / "in.txt"), tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda job: None)  # as if it was killed before that
        assert score_table(Failing("7"), source, target, window=4).errors == 2
    stopped(source, target, "text 17", retry_errors=True)
    assert score_table(Watched(), source, target, window=4, retry_errors=True).errors == 0


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


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that had it, between the opening of the file and its locking."""
    path, really = tmp_path / "job" / "lock", lock._lock

    def late(file: Any) -> None:
        if path.exists() and not (tmp_path / "removed").exists():
            (tmp_path / "removed").touch()
            path.unlink()
            path.parent.rmdir()
        really(file)

    monkeypatch.setattr(lock, "_lock", late)
    with lock.hold(path, "out"):
        assert path.read_text().startswith("process ")


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
