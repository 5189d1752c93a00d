"""Rows that fail, and texts that were scored before: in the job, or in a store of many jobs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake import Engine
from watched import Failing, Watched, lines, names

from slant.errors import TableError
from slant.scores import Score
from slant.tables.bulk import score_table
from slant.tables.parts import Parts
from slant.tables.store import ScoreStore

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


def test_a_window_that_was_scored_and_not_written_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its scores and its part: they are used, and are no duplicates."""
    source, write = lines(tmp_path / "in.txt"), Parts.write

    def stopping(parts: Parts, index: int, *rest: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        write(parts, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            score_table(Watched(), source, tmp_path / "out.csv", window=4)
    engine = Watched()
    figures = score_table(engine, source, tmp_path / "out.csv", window=4).figures
    assert engine.seen == [f"text {i}" for i in range(12, 20)]
    assert (figures["scored"], figures["duplicates"], figures["tokens"]) == (20, 0, 40)


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
