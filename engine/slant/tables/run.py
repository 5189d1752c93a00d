"""A model at work on the windows of its inputs: straight into the output, or part by part in a job."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from slant import __version__
from slant.errors import TableError
from slant.files import sha256_of
from slant.tables.answers import AddedColumns, without_lost_values
from slant.tables.columns import missing
from slant.tables.job import SCORES, Job
from slant.tables.parquet_format import check_schema
from slant.tables.parts import Part
from slant.tables.rows import Chunk
from slant.tables.scoring import Scored, Scorer, Scoring
from slant.tables.sources import Inputs, Place, Window
from slant.tables.store import ScoreStore
from slant.tables.summary import Figures, Summary, Tally, add_up, figures_of
from slant.tables.write import Answers, Output

Load = Callable[[], Scorer]


@dataclass(frozen=True, slots=True)
class Wants:
    """What is wanted of a job beside its input and output; the fields are those of ``score_table``."""

    writes: str
    prefix: str
    window: int
    max_errors: int | None
    store: str | Path | None
    dedupe: bool
    retry_errors: bool
    group_column: str | None
    date_column: str | None
    progress: Callable[[Summary], None]

    def check(self, inputs: Inputs) -> None:
        """Raise TableError for columns that are not there, or that clash with the added ones of every model."""
        names = inputs.schema.names
        if self.writes == "parquet":
            check_schema(inputs.schema)
        AddedColumns.beside(names, 2, self.prefix, certified=False)
        for column, option in ((self.group_column, "--group-column"), (self.date_column, "--date-column")):
            if column is not None and column not in names:
                raise missing(inputs.sources[0], column, names, option)
        if self.store is not None and not self.dedupe:
            raise TableError("a store holds answers by text, and needs dedupe.")
        if self.store is not None and not Path(self.store).absolute().parent.is_dir():
            raise TableError(f"the folder of the store {self.store} does not exist.")


class Run:
    """Windows in, rows with their answers and figures out. Scores are kept in the file ``private`` unless a store is
    wanted; ``earlier`` are the figures of what was finished before, ``share`` of the input.
    """

    def __init__(
        self,
        scorer: Scorer,
        inputs: Inputs,
        wants: Wants,
        private: str | Path,
        job: str,
        earlier: Figures,
        share: float,
    ) -> None:
        names = inputs.schema.names
        certified = scorer.stable_margin is not None
        self._added = AddedColumns.beside(names, len(scorer.labels), wants.prefix, certified=certified)
        self.output = Output(wants.writes, inputs.schema, self._added.schema)
        self._inputs, self._wants, self.total = inputs, wants, add_up({}, earlier)
        self._tally = Tally(wants.progress, earlier, share)
        path, identity = private, b""
        if wants.store is not None:
            path, identity = wants.store, json.dumps([__version__, scorer.identity()]).encode()
        self._store = ScoreStore(path, identity, scorer.labels, shared=wants.store is not None)
        answered = earlier.get("rows", 0) > earlier.get("errors", 0)
        self._scoring = Scoring(
            scorer, self._store, wants.window, self._tally, job, answered, wants.retry_errors, wants.dedupe
        )

    def close(self) -> None:
        self._store.close()

    def windows(self, windows: Iterator[Window]) -> Iterator[Scored]:
        """The windows with their scores."""
        known = None if self._wants.writes == "jsonl" else set(self._inputs.schema.names)
        added = set(self._added.schema.names)
        return self._scoring.windows(
            replace(window, chunks=[without_lost_values(chunk, known, added) for chunk in window.chunks])
            for window in windows
        )

    def rows(self, scored: Scored) -> Iterator[tuple[Chunk, Answers]]:
        """Chunks with the values of their added columns."""
        answers = iter(scored.scores)
        for chunk in scored.window.chunks:
            yield chunk, [self._added.values(next(answers)) for _ in chunk.errors]

    def figures(self, scored: Scored) -> Figures:
        """Those of a window, which are added to the total."""
        columns = {"group_column": self._wants.group_column, "date_column": self._wants.date_column}
        figures = figures_of(scored.window.chunks, scored.scores, scored.counted, **columns)
        add_up(self.total, figures)
        return figures

    def check_errors(self) -> None:
        """Raise TableError if there are more than are allowed."""
        most, errors = self._wants.max_errors, self.total.get("errors", 0)
        if most is not None and errors > most:
            raise TableError(f"{errors:,} rows have an error, and --max-errors allows {most:,}: the job ends here.")

    def summary(self) -> Summary:
        return finished(self._tally, self.total, self._inputs.problems)


def finished(tally: Tally, total: Figures, problems: Mapping[int, str]) -> Summary:
    """The summary of a job with these figures."""
    said, rates = tuple(problem for _, problem in sorted(problems.items())), tuple(tally.rates)
    done = None if tally.summary.done is None else 1.0
    return replace(tally.summary, figures=total, problems=said, rates=rates, done=done)


def straight(load: Load, inputs: Inputs, windows: Iterator[Window], target: str | Path, wants: Wants) -> Summary:
    """Write each window to the target as it is scored."""
    with closing(Run(load(), inputs, wants, "", "straight", {}, 0.0)) as run, run.output.writer(target) as write:
        for scored in run.windows(windows):
            write(run.output.payload(run.rows(scored)))
            run.figures(scored)
            run.check_errors()
    return run.summary()


def in_parts(
    load: Load,
    inputs: Inputs,
    job: Job,
    key: dict[str, object],
    wants: Wants,
    *,
    force: bool,
    hashing: Callable[[int, int], None],
) -> Summary:
    """Score the windows that have no part yet, and join all parts unless they are a dataset. Raises TableError if the
    job was begun with another ``key``, model or input, or if an input changes meanwhile.
    """
    before = [_state(name) for name in inputs.sources]
    key = key | {"inputs": contents(inputs.sources, hashing)}
    job.agree(key)
    scorer = load()
    key |= scorer.identity()
    job.agree(key)
    if job.complete and not wants.retry_errors and (job.parts.dataset or (job.target.is_file() and not job.whole)):
        summary = finished(Tally(wants.progress, job.figures, 1.0), job.figures, job.problems)
        if not job.parts.dataset:
            job.remove()  # it was killed at that
        return summary
    job.begin(key, force=force, again=wants.retry_errors)
    done = job.parts.finished()
    if wants.retry_errors:
        done = {index: part for index, part in done.items() if not part.figures["errors"]}
    earlier: Figures = {}
    for part in done.values():
        add_up(earlier, part.figures)
        inputs.problems |= part.problems
    index = next(i for i in range(len(done) + 1) if i not in done)
    start, share = (done[index - 1].end, done[index - 1].share) if index else (Place(), 0.0)
    private = job.folder / SCORES if wants.dedupe else ""
    with closing(Run(scorer, inputs, wants, private, job.id, earlier, share or 0.0)) as run:
        run.check_errors()
        for scored in run.windows(
            found for found in inputs.windows(wants.window, start, index) if found.index not in done
        ):
            part = Part.of(scored.window, run.figures(scored))
            job.parts.write(scored.window.index, part, run.output, run.rows(scored))
            run.check_errors()
        if not job.parts.paths() and job.parts.dataset:
            job.parts.write(0, Part({"rows": 0, "errors": 0}, Place(), 1.0, {}), run.output, ())
    changed = [number for number, name in enumerate(inputs.sources) if _state(name) != before[number]]
    if changed and contents(inputs.sources, hashing) != key["inputs"]:
        raise TableError(
            f"{inputs.sources[changed[0]]} changed while it was scored; begin the job anew with --restart."
        )
    total: Figures = {}
    for part in job.parts.finished().values():  # in their order, whenever they were made
        add_up(total, part.figures)
    job.end(total, inputs.problems, len(job.parts.paths()))
    if not job.parts.dataset:
        job.join(run.output)
        job.remove()
    elif not total["errors"]:
        job.forget_scores()
    return replace(run.summary(), figures=total)


def contents(sources: list[str], progress: Callable[[int, int], None]) -> list[dict[str, object]]:
    """What the inputs are: name, size and hash of each."""
    paths = [Path(name) for name in sources]
    try:
        digests = sha256_of(paths, progress)
    except OSError as error:
        raise TableError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    ]


def _state(name: str) -> tuple[int, ...]:
    """What differs if a file was written to: its time of change cannot be set back."""
    found: os.stat_result = Path(name).stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
