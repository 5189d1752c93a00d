"""Score a whole table: a file of texts in, the same rows with their answers out, in constant memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from slant.errors import TableError
from slant.scores import Score
from slant.tables.read import STANDARD, Chunk, Table, format_of, open_table
from slant.tables.write import check_target, open_writer


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
    prefix: str = "",
    window: int = 1024,
    force: bool = False,
    progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Score the ``text_column`` of ``source`` and write every row with its answers to ``target``, in order.

    engine: an Engine, or a function that loads one; it is called when the tables are known to be fine.
    source, target: paths; ``-`` is stdin and stdout. A target file appears when it is complete, or not at all.
    input_format: csv, jsonl, parquet or lines (one text a line); by default the file's ending, for stdin lines.
    output_format: csv, jsonl or parquet; by default the file's ending, for stdout jsonl.
    encoding: of a csv, jsonl or lines input.
    prefix: put before the names of the added columns: label, label_name, expected, p0 ..., margin, stable (if the
    model is certified), tokens, truncated and error. They are null in a row with an error, and ``error`` is null in
    the others.
    window: rows scored at a time.
    force: replace an existing target.
    progress: called as batches are answered and as rows with an error are met.

    Raises TableError for an input or output that cannot be used, OSError if writing fails (for example on a full disk),
    and SlantError from loading the engine.
    """
    check_target(target, source, force=force)
    reads = format_of(source, input_format, "lines")
    writes = format_of(target, output_format, "jsonl")
    if writes == "lines":
        raise TableError("lines hold no scores; write csv, jsonl or parquet.")
    if window < 1:
        raise TableError(f"the window must hold at least one row, not {window}.")
    fixed = writes != "jsonl"
    with open_table(
        source, reads, text_column=text_column, encoding=encoding, window=window, fixed_columns=fixed
    ) as table:
        scorer = engine if isinstance(engine, Scorer) else engine()
        certified = scorer.stable_margin is not None
        answers = answer_schema(len(scorer.labels), prefix, stable=certified)
        if clash := [name for name in answers.names if name in table.schema.names]:
            raise TableError(f"the input already has a column {clash[0]!r}; name the answers apart with --prefix.")
        with open_writer(target, writes, table.schema, answers) as writer:
            tally = _Tally(table.total, progress)
            for chunk, scores in _scored(scorer, table, window, tally):
                writer.write(chunk.rows, _columns(scores, answers, certified))
            return tally.summary()


def answer_schema(labels: int, prefix: str = "", *, stable: bool = False) -> pa.Schema:
    """Names and types of the columns added to a table, for a model with ``labels`` labels, certified or not."""
    fields = [("label", pa.int64()), ("label_name", pa.string()), ("expected", pa.float32())]
    fields += [(f"p{i}", pa.float32()) for i in range(labels)]
    fields += [("margin", pa.float32()), *([("stable", pa.bool_())] if stable else [])]
    fields += [("tokens", pa.int64()), ("truncated", pa.bool_()), ("error", pa.string())]
    return pa.schema([(prefix + name, kind) for name, kind in fields])


class _Tally:
    """Counts texts as their batches are done, and rows with an error as their turn comes; reports both."""

    def __init__(self, total: int | None, progress: Callable[[Summary], None]) -> None:
        self._total, self._progress = total, progress
        self._start = time.perf_counter()
        self._rows = self._errors = self._tokens = 0
        self._chunk = self._before = 0, 0  # rows and end of the input so far, with and without the chunk in work

    def read(self, chunk: Chunk) -> None:
        """Another chunk is being scored."""
        self._before = self._chunk
        self._chunk = self._chunk[0] + len(chunk.errors), chunk.end

    def scored(self, texts: int, tokens: int) -> None:
        """A batch is done."""
        self._rows += texts
        self._tokens += tokens
        self._progress(self.summary())

    def failed(self) -> None:
        """A row has an error."""
        self._rows += 1
        self._errors += 1
        self._progress(self.summary())

    def summary(self) -> Summary:
        (rows, end), (rows_before, end_before) = self._chunk, self._before
        part = (self._rows - rows_before) / max(1, rows - rows_before)
        done = min(1.0, (end_before + (end - end_before) * part) / self._total) if self._total else None
        return Summary(self._rows, self._errors, self._tokens, time.perf_counter() - self._start, done)


def _scored(engine: Scorer, table: Table, window: int, tally: _Tally) -> Iterator[tuple[Chunk, list[Score]]]:
    """Chunks with a score for each row.

    The engine gets one stream of all rows and may read ahead in it; an unreadable row is in it as None, which keeps
    the answers in step with the rows.
    """
    waiting: deque[Chunk] = deque()

    def texts() -> Iterator[object]:
        for chunk in table.chunks:
            waiting.append(chunk)
            tally.read(chunk)
            yield from chunk.texts

    scores = list[Score]()
    for score in engine.stream(texts(), window=window, progress=tally.scored):
        chunk = waiting[0]
        error = chunk.errors[len(scores)]
        scores.append(score if error is None else Score.failed(error, len(engine.labels)))
        if scores[-1].error is not None:
            tally.failed()
        if len(scores) == len(chunk.errors):
            yield waiting.popleft(), scores
            scores = []
    if waiting:
        raise RuntimeError("the engine answered fewer texts than it was given")


def _columns(scores: Sequence[Score], schema: pa.Schema, stable: bool) -> dict[str, list[object]]:
    rows: list[list[object]] = []
    for score in scores:
        if score.error is not None:
            rows.append([None] * (len(schema) - 1) + [score.error])
            continue
        p = [_shortest(value) for value in score.probabilities]
        head = [score.label, score.label_name, _shortest(np.float32(score.expected))]
        margin = [_shortest(np.float32(score.margin)), *([score.stable] if stable else [])]
        rows.append([*head, *p, *margin, score.tokens, score.truncated, None])
    return {name: list(column) for name, column in zip(schema.names, zip(*rows, strict=True), strict=True)}


def _shortest(value: np.float32) -> float | None:
    """The float that prints with as many digits as a float32 needs: 0.1, not 0.10000000149011612."""
    return float(str(value)) if math.isfinite(value) else None
