"""Score whole tables: files of texts in, the same rows with their answers out, in constant memory.

An input of one window goes straight to its output, and so does a pipe. Anything larger is a job: each window becomes a
part on the disk, parts are joined at the end, and a job that was stopped goes on where it was, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path

from slant import __version__
from slant.errors import TableError
from slant.tables.job import job_folder, open_job
from slant.tables.read import STANDARD, open_table
from slant.tables.rows import InputTable
from slant.tables.run import Wants, in_parts, straight
from slant.tables.scoring import Scorer
from slant.tables.sources import find_sources, open_inputs
from slant.tables.summary import Summary
from slant.tables.write import check_target, written_format

__all__ = ["Scorer", "Summary", "score_table"]


def score_table(
    engine: Scorer | Callable[[], Scorer],
    source: str | Path | Sequence[str | Path],
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
    parts: bool = False,
    restart: bool = False,
    retry_errors: bool = False,
    max_errors: int | None = None,
    store: str | Path | None = None,
    dedupe: bool = True,
    group_column: str | None = None,
    date_column: str | None = None,
    progress: Callable[[Summary], None] = lambda summary: None,
    hashing: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Score the ``text_column`` of ``source`` and write every row with its answers to ``target``, in order.

    engine: an Engine, or a function that loads one; it is called when the tables are known to be fine.
    source: a file, a folder, a pattern such as "data/*.csv", or several of them; ``-`` is stdin.
    target: a file, which appears when it is complete or not at all; ``-`` is stdout. A job of more than one window
    keeps what is finished in the folder ``TARGET.parts``: the same call goes on from there.
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
    parts: make the folder ``target``, a Parquet dataset with a file for each window, and join nothing.
    restart: forget what is finished of the job.
    retry_errors: score the rows again that failed, in an unfinished job, a dataset, or with a ``store``.
    max_errors: stop if more rows have an error.
    store: an SQLite file that keeps the scores of many jobs, so that none scores a text again.
    dedupe: score identical texts once.
    group_column, date_column: the summary's figures have the expected score by their values.
    progress: called as batches are answered and as rows with an error are met. hashing: called with (inputs hashed,
    inputs in all) before a job.

    Raises TableError for an input or output that cannot be used, OSError if writing fails (for example on a full disk),
    and SlantError from loading the engine.
    """
    if window < 1:
        raise TableError(f"the window must hold at least one row, not {window}.")
    path, folder = Path(target), job_folder(Path(target), dataset=parts)
    if not parts and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # a job was killed at this, its last step
    sources = find_sources(source, folder, every=input_format is not None)
    check_target(target, sources, force=force or folder.exists(), dataset=parts)
    writes = "parquet" if parts else written_format(target, output_format)
    lasting = parts or (str(target) != STANDARD and (path.is_file() or not path.exists()))
    lasting = lasting and all(Path(name).is_file() for name in sources)
    if not lasting and (parts or restart):
        raise TableError("only a job from files to a file can go on later; leave out --parts and --restart.")
    if retry_errors and store is None and not folder.exists():
        raise TableError(f"no unfinished job of {target} has errors to retry; with --store a finished one could have.")
    reading = {"text_column": text_column, "encoding": encoding, "delimiter": delimiter}
    wants = Wants(
        writes, prefix, window, max_errors, store, dedupe, retry_errors, group_column, date_column, progress
    )  # fmt: skip

    def opening(name: str) -> AbstractContextManager[InputTable]:
        return open_table(name, input_format, window=window, **reading)  # type: ignore[arg-type]

    def load() -> Scorer:
        return engine if isinstance(engine, Scorer) else engine()

    with open_inputs(sources, opening) as inputs:
        wants.check(inputs)
        windows = inputs.windows(window)
        head = list(islice(windows, 2))
        if not lasting or (len(head) < 2 and not parts and not folder.exists()):
            return straight(load, inputs, chain(head, windows), target, wants)
        windows.close()
        key: dict[str, object] = {name.replace("_", "-"): value for name, value in reading.items()} | {
            "version": __version__,
            "window": window,
            "input-format": input_format,
            "output-format": writes,
            "prefix": prefix,
            "group-column": group_column,
            "date-column": date_column,
        }
        with open_job(path, dataset=parts, restart=restart) as job:
            if force and parts and job.complete and not retry_errors:
                job.clear()
            if path.is_file() and not (force or job.replaces):
                check_target(target, sources, force=False)
            try:
                return in_parts(load, inputs, job, key, wants, force=force, hashing=hashing)
            except TableError:
                if inputs.broken:
                    job.remove()
                raise
