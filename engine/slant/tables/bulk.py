"""Score a whole table: a file of texts in, the same rows with their answers out, in constant memory.

One run makes one file, and a run that is stopped begins anew: a job that goes on would write each chunk of ``_scored``
to a file of its own with ``open_writer``, and note it in a manifest.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from slant.errors import TableError
from slant.scores import Score, require_an_answer
from slant.tables.parquet_format import check_schema
from slant.tables.read import STANDARD, open_table
from slant.tables.rows import Chunk, as_text
from slant.tables.write import check_target, open_writer, written_format


@runtime_checkable
class Scorer(Protocol):
    """What this module needs of an engine."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def stable_margin(self) -> float | None: ...
    def stream(
        self, texts: Iterable[object], *, window: int = ..., progress: Callable[[int, int], None] = ...
    ) -> Iterator[Score]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done so far: ``errors`` of the ``rows`` have no score, ``tokens`` were computed in ``seconds``.

    ``done`` is the finished part of the input, 0 to 1, or None where its length is unknown.
    """

    rows: int
    errors: int
    tokens: int
    seconds: float
    done: float | None

    @property
    def texts_per_second(self) -> float:
        return (self.rows - self.errors) / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def score_table(
    engine: Scorer | Callable[[], Scorer],
    source: str | Path,
    target: str | Path = STANDARD,
    *,
    text_column: str = "text",
    input_format: str | None = None,
    output_format: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    prefix: str = "",
    window: int = 1024,
    force: bool = False,
    progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Score the ``text_column`` of ``source`` and write every row with its answers to ``target``, in order.

    engine: an Engine, or a function that loads one; it is called when the tables are known to be fine.
    source, target: paths; ``-`` is stdin and stdout. A target file appears when it is complete, or not at all.
    input_format: csv, tsv, jsonl, json, parquet, arrow or lines (one text a line); by default the file's ending, for
    stdin lines.
    output_format: csv, tsv, jsonl or parquet; by default the file's ending, for stdout jsonl.
    encoding: of an input that is text; a byte order mark in it is believed instead.
    delimiter: between the fields of a csv or tsv input; by default what its header shows.
    prefix: put before the names of the added columns: label, label_name, expected, p0 ..., margin, stable (if the
    model is certified), tokens, truncated, special_tokens and error. They are null in a row with an error, and
    ``error`` is null in the others.
    window: rows scored at a time.
    force: replace an existing target.
    progress: called as batches are answered and as rows with an error are met.

    Raises TableError for an input or output that cannot be used, OSError if writing fails (for example on a full disk),
    and SlantError from loading the engine.
    """
    check_target(target, source, force=force)
    writes = written_format(target, output_format)
    if window < 1:
        raise TableError(f"the window must hold at least one row, not {window}.")
    with open_table(
        source, input_format, text_column=text_column, encoding=encoding, delimiter=delimiter, window=window
    ) as table:
        names = table.schema.names
        if writes == "parquet":
            check_schema(table.schema)
        _added_columns(names, 2, prefix, certified=False)  # what every model adds, before one is loaded
        scorer = engine if isinstance(engine, Scorer) else engine()
        certified = scorer.stable_margin is not None
        added = _added_columns(names, len(scorer.labels), prefix, certified=certified)
        known = None if writes == "jsonl" else set(names)
        chunks = (_without_lost_values(chunk, known, set(added.names)) for chunk in table.chunks)
        with open_writer(target, writes, table.schema, added) as write:
            tally = _Tally(table.total, progress)
            answered = False
            for chunk, scores in _scored(scorer, chunks, window, tally):
                answered = answered or require_an_answer(scores)
                write(chunk, [_answer(score, added, certified) for score in scores])
            return tally.summary


def _added_columns(existing: list[str], labels: int, prefix: str, *, certified: bool) -> pa.Schema:
    """Names and types of the columns added to a table that has the ``existing`` ones, for a model of ``labels`` labels.

    Raises TableError for a prefix that is not valid Unicode or does not tell them apart.
    """
    if as_text(prefix) != prefix:
        raise TableError(f"the prefix {prefix!r} is not valid Unicode.")
    fields = [("label", pa.int64()), ("label_name", pa.string()), ("expected", pa.float32())]
    fields += [(f"p{i}", pa.float32()) for i in range(labels)]
    fields += [("margin", pa.float32()), *([("stable", pa.bool_())] if certified else [])]
    fields += [("tokens", pa.int64()), ("truncated", pa.bool_()), ("special_tokens", pa.int64())]
    fields += [("error", pa.string())]
    if clash := [prefix + name for name, _ in fields if prefix + name in existing]:
        raise TableError(f"the input already has a column {clash[0]!r}; name the added columns apart with --prefix.")
    return pa.schema([(prefix + name, kind) for name, kind in fields])


def _without_lost_values(chunk: Chunk, known: set[str] | None, added: set[str]) -> Chunk:
    """The chunk, in which a row has an error instead of a value that the output has no place for.

    Only JSON Lines brings such a value: under the name of an added column, or, if the output has ``known`` columns
    only, under a key that the first chunk did not have.
    """
    rows = chunk.rows if isinstance(chunk.rows, list) else []
    for i, row in enumerate(rows):
        if not (lost := row.keys() & added if known is None else row.keys() - known):
            continue
        clash = "name the added columns apart with --prefix" if lost & added else ""
        late = "the first rows do not have such a key, so write jsonl to keep it" if known is not None else ""
        advice = "; ".join(filter(None, (late, clash)))
        error = f"Not kept: {', '.join(map(repr, sorted(lost)))}; {advice}."
        rows[i] = {key: value for key, value in row.items() if key not in lost}
        chunk.texts[i], chunk.errors[i] = None, f"{chunk.errors[i]} {error}" if chunk.errors[i] else error
    return chunk


class _Tally:
    """Counts texts as their batches are done, and rows with an error as their turn comes; reports both."""

    def __init__(self, total: int | None, progress: Callable[[Summary], None]) -> None:
        self._total, self._progress, self._start = total, progress, time.perf_counter()
        self.read = self.end = 0  # rows that were read, and how much of the input that is
        self.summary = Summary(0, 0, 0, 0.0, 0.0 if total else None)

    def add(self, rows: int, tokens: int = 0, errors: int = 0) -> None:
        rows, errors, tokens = rows + self.summary.rows, errors + self.summary.errors, tokens + self.summary.tokens
        done = self.summary.done
        if self._total and done is not None:  # rows may differ in size, but what is done does not shrink
            done = max(done, min(1.0, rows / self.read * self.end / self._total))
        self.summary = Summary(rows, errors, tokens, time.perf_counter() - self._start, done)
        self._progress(self.summary)


def _scored(engine: Scorer, chunks: Iterator[Chunk], window: int, tally: _Tally) -> Iterator[tuple[Chunk, list[Score]]]:
    """Chunks with a score for each row.

    The engine gets one stream of all rows and may read ahead in it; an unreadable row is in it as None, which keeps
    the answers in step with the rows.
    """
    waiting: deque[Chunk] = deque()

    def texts() -> Iterator[object]:
        for chunk in chunks:
            waiting.append(chunk)
            tally.read, tally.end = tally.read + len(chunk.errors), chunk.end
            yield from chunk.texts

    scores = list[Score]()
    for score in engine.stream(texts(), window=window, progress=tally.add):
        chunk = waiting[0]
        error = chunk.errors[len(scores)]
        scores.append(score if error is None else Score.failed(error, len(engine.labels)))
        if scores[-1].error is not None:
            tally.add(1, errors=1)
        if len(scores) == len(chunk.errors):
            yield waiting.popleft(), scores
            scores = []
    if waiting:
        raise RuntimeError("the engine answered fewer texts than it was given")


def _answer(score: Score, added: pa.Schema, certified: bool) -> list[object]:
    """The values of the added columns."""
    if score.error is not None:
        return [None] * (len(added) - 1) + [score.error]
    figures = map(_shortest, (np.float32(score.expected), *score.probabilities, np.float32(score.margin)))
    stable = [score.stable] if certified else []
    counts = (score.tokens, score.truncated, score.special_tokens)
    return [score.label, score.label_name, *figures, *stable, *counts, None]


def _shortest(value: np.float32) -> float | None:
    """The float that prints with as many digits as a float32 needs: 0.1, not 0.10000000149011612."""
    return float(str(value)) if math.isfinite(value) else None
