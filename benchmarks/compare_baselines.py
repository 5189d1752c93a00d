"""Is the engine worth it? slant's checkpoints beside the cheap alternatives, on the same training and test texts.

    python benchmarks/compare_baselines.py --train train.csv --test test.csv --label label --group author \\
        --model mine=path/to/checkpoint --base base=path/to/its/base

The tables may be CSV, JSON Lines or Parquet; labels may have any names. ``--group`` names the column of what belongs
together, such as the author: intervals are drawn by it, since texts of one author are not independent. Systems are
fitted once and kept in a cache; a second call with the same data only measures. What is missing, such as a package
that carries a model, is reported and skipped.

``--only quality`` and ``--only timing`` do one of the two. Quality does not depend on the machine; timing asks all
systems in turn for the same texts, each in a process of its own, and wants a machine that does nothing else.

Rows go to results/baselines.jsonl; baselines.md, the table, and baselines.svg, a picture, are made of the newest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import pictures
from baselines.data import Labelled, Task
from baselines.packaged import ModelAbsent
from baselines.systems import Checkpoint, System, facts, fitted, systems
from harness.process import Pool, Reply
from harness.rows import RESULTS, Row, append, environment, named, read
from harness.tables import distinct, interval, markdown
from harness.timing import measure
from slant.errors import SlantError
from slant.evaluation.assess import Estimate, assess, compare
from slant.evaluation.metrics import Labels
from texts import cache_folder

RESULT = "baselines"
BACKEND = "baselines.systems:worker"
LOADING = 600  # seconds
HEAD = ("", "trained on", "accuracy", "macro-F1", "mean absolute error", "texts/s", "peak memory")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    console = Console(soft_wrap=True, highlight=False)
    try:
        task = Task.read(options.train, options.test, text=options.text, label=options.label, group=options.group)
    except SlantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    for path, count in zip((options.train, options.test), task.left_out, strict=True):
        if count:
            console.print(f"{path}: {count} rows have no text or no label and are left out.", markup=False)
    train = task.train if options.training_texts is None else task.train.stratified(options.training_texts)
    every = systems(options.model, options.base, options.weights)
    chosen = [system for system in every if named(system.name, options.systems)]
    if not chosen:
        console.print(f"no system is called {options.systems!r}.", style="red", markup=False)
        return 2
    head = environment() | {"run": datetime.now(UTC).isoformat(timespec="seconds"), "task": task.name}
    found: list[Row] = []
    with Progress(console=console, transient=True) as progress:
        if options.only != "timing":
            found += qualities(chosen, train, task.test, options.cache, progress)
        if options.only != "quality":
            found += timings(chosen, train, task.test, options, progress)
    for row in found:
        append(RESULT, head | row, options.results)
    rows = read(options.results / f"{RESULT}.jsonl")
    pictures.baselines(*newest(rows), options.results / f"{RESULT}.svg")
    (options.results / f"{RESULT}.md").write_text(table(rows) + "\n", encoding="utf-8")
    console.print(table([row for row in rows if row["task"] == task.name]), markup=False)
    return 0


def qualities(chosen: Sequence[System], train: Labelled, test: Labelled, cache: Path, progress: Progress) -> list[Row]:
    """A row a system; ``against`` is the first of slant's own that answered, of which differences are."""
    rows: list[Row] = []
    labels: dict[str, Labels] = {}
    task, part = progress.add_task("", total=len(chosen)), progress.add_task("", visible=False)

    def tell(done: int, total: int) -> None:
        progress.update(part, completed=done, total=total, visible=done < total, description="texts")

    for system in chosen:
        progress.update(task, description=system.name)
        row: Row = {"kind": "quality", "status": "ok"} | described(system, train, test)
        try:
            folder = fitted(system, train, cache, tell)
            labels[system.name] = system.load(folder, test.names, cache)(test.texts).argmax(-1)
            row |= facts(folder) | figures(test, labels[system.name])
        except (SlantError, ImportError) as error:
            row["status"] = reason(error)
        rows.append(row)
        progress.update(part, visible=False)
        progress.advance(task)
    against = next((s.name for s in chosen if isinstance(s, Checkpoint) and s.tuned and s.name in labels), None)
    for row in rows:
        if against and row["status"] == "ok" and row["system"] != against:
            row |= {"against": against, "difference": difference(test, labels[against], labels[row["system"]])}
    return rows


def described(system: System, train: Labelled, test: Labelled) -> Row:
    """What was asked: ``data`` is the same for the same test texts only."""
    return {
        "system": system.name,
        "fitted": not isinstance(system, Checkpoint),
        "note": system.note,
        "costs": system.costs,
        "data": test.digest,
        "training_texts": len(train.texts),
        "texts": len(test.texts),
        "groups": None if test.groups is None else len(np.unique(test.groups)),
        "labels": list(test.names),
    }


def figures(test: Labelled, labels: Labels) -> Row:
    """Accuracy, macro-F1 and, where labels are ordered, the mean absolute error in labels: ``[value, low, high]``."""
    found = assess(test.labels, labels, classes=len(test.names), groups=test.groups)
    row = {"accuracy": rounded(found.accuracy), "macro_f1": rounded(found.macro_f1)}
    return row | {"mae": rounded(found.mae) if test.ordered else None}


def difference(test: Labelled, first: Labels, second: Labels) -> list[float | None]:
    """The second labels' accuracy minus the first's, by the paired bootstrap."""
    return rounded(compare(test.labels, first, second, classes=len(test.names), groups=test.groups).accuracy)


def rounded(estimate: Estimate) -> list[float | None]:
    return [round(value, 6) if value is not None else None for value in (estimate.value, estimate.low, estimate.high)]


def timings(
    chosen: Sequence[System], train: Labelled, test: Labelled, options: argparse.Namespace, progress: Progress
) -> list[Row]:
    """A row a system that can be fitted, all in the same rounds; the status of any other says why not."""
    drawn = np.random.default_rng(0).permutation(len(test.texts))[: options.timing_texts]
    texts = [test.texts[row] for row in drawn]
    known = {"models": options.model, "bases": options.base}
    shared = {kind: {name: str(path) for name, path in paths.items()} for kind, paths in known.items()}
    shared |= {"names": list(test.names), "threads": options.threads, "weights": list(options.weights)}
    rows, loaded, doing = [], [], progress.add_task("", total=None)
    with closing(Pool(options.threads, max(LOADING, 3 * options.max_seconds))) as pool:
        for system in (system for system in chosen if system.costs == system.name):
            progress.update(doing, description=f"loading {system.name}")
            try:
                folder = fitted(system, train, options.cache)
            except (SlantError, ImportError) as error:
                rows.append({"system": system.name, "status": reason(error)})
                continue
            pool.start(system.name, BACKEND, shared | {"system": system.name, "folder": str(folder)})
            loaded.append(system.name)

        def ask(name: str) -> Reply:
            return pool.ask(name, texts, 0)

        limits = {"count": options.rounds, "max_seconds": options.max_seconds}
        found = measure(ask, loaded, {}, **limits, progress=lambda name: progress.update(doing, description=name))
        rows += [{"system": name} | timing.row(pool.loaded(name), len(texts)) for name, timing in found.items()]
    return [{"kind": "timing", "data": test.digest} | row for row in rows]


def reason(error: Exception) -> str:
    """Why a system cannot be had, and what to do."""
    known = isinstance(error, (SlantError, ModelAbsent))
    return str(error) if known else f"{error}; run pip install 'slant[baselines]'."


def newest(rows: Sequence[Row]) -> tuple[list[Row], dict[str, Row]]:
    """The newest quality row of each system and training set, on each task's newest test set; timings by system."""
    data = {row["task"]: row["data"] for row in rows if row["kind"] == "quality"}
    quality = {
        (row["task"], row["training_texts"] if row["fitted"] else None, row["system"]): row
        for row in rows
        if row["kind"] == "quality" and row["data"] == data[row["task"]]
    }
    return list(quality.values()), {row["system"]: row for row in rows if row["kind"] == "timing"}


def table(rows: Sequence[Row]) -> str:
    """Everything that the newest rows say, in Markdown, one table a task."""
    quality, timed = newest(rows)
    tasks = ([row for row in quality if row["task"] == task] for task in distinct(quality, "task"))
    return "\n\n".join(part for task in tasks for part in _task(task, timed))


def _task(rows: Sequence[Row], timed: Mapping[str, Row]) -> Iterator[str]:
    known = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: -row["accuracy"][0])
    by = f"{rows[0]['groups']} groups of texts" if rows[0]["groups"] else "texts"
    against = next((row["against"] for row in rows if row.get("against")), None)
    other = f"; then the difference from {against} with its own interval" if against else ""
    labels = rows[0]["labels"]
    yield (
        f"**{rows[0]['task']}**: {rows[0]['texts']} texts, {len(labels)} labels ({', '.join(labels)}). In brackets "
        f"95 % intervals, from resamples of {by}{other}."
    )
    if known:
        body = [_line(row, timed.get(row["costs"], {})) for row in known]
        filled = [column for column in range(len(HEAD)) if any(line[column] for line in body)]
        head, *lines = ([line[column] for column in filled] for line in (HEAD, *body))
        yield markdown(head, lines, numbers=True)
    notes = dict.fromkeys(f"* {row['system']}: {row['note']}." for row in known if row["note"])
    absent = dict.fromkeys(f"* Without {row['system']}: {row['status']}" for row in rows if row["status"] != "ok")
    if notes or absent:
        yield "\n".join([*notes, *absent])


def _line(row: Row, timing: Row) -> list[str]:
    speed, memory = timing.get("texts_per_second"), timing.get("peak_rss")
    other = f"; {interval(row['difference'], '+')}" if row.get("difference") else ""
    return [
        row["system"],
        f"{row['training_texts']:,}" if row["fitted"] else "",
        interval(row["accuracy"]) + other,
        interval(row["macro_f1"]),
        interval(row["mae"]) if row["mae"] else "",
        f"{speed:,.0f}" if speed else "",
        f"{memory / 1e9:.2f} GB" if memory else "",
    ]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    columns(parser)
    parser.add_argument("--training-texts", type=int, help="train on so many, drawn with each label's share; all else")
    parser.add_argument("--model", action=Named, default={}, metavar="NAME=PATH", help="a checkpoint; repeatable")
    parser.add_argument("--base", action=Named, default={}, metavar="NAME=PATH", help="one not tuned for the labels")
    parser.add_argument("--weights", type=lambda text: text.split(","), default=["bf16", "hqq4"], help="of checkpoints")
    parser.add_argument("--systems", default="*", help='names or patterns such as "slant-*,minilm-ridge"')
    parser.add_argument("--only", choices=("quality", "timing"), help="one of the two, instead of both")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one to warm up")
    parser.add_argument("--max-seconds", type=float, default=120, help="for one system, over all rounds")
    parser.add_argument("--timing-texts", type=int, default=256, help="test texts that systems are timed on")
    options = parser.parse_args(argv)
    if both := options.model.keys() & options.base.keys():
        parser.error(f"--model and --base are both called {min(both)}; name them NAME=PATH.")
    return options


def columns(parser: argparse.ArgumentParser) -> None:
    """The options that say what the data is and where things are kept."""
    parser.add_argument("--train", type=Path, required=True, help="table of the training texts")
    parser.add_argument("--test", type=Path, required=True, help="table of the test texts")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--label", default="label", help="column of the labels, and the task's name in the results")
    parser.add_argument("--group", help="column of what belongs together, such as the author")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=cache_folder() / RESULT, help="folder of fitted systems")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file and the picture")


class Named(argparse.Action):
    """Collects NAME=PATH; a name is the folder's own where none is given."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        name, given, path = str(values).rpartition("=")
        folder = Path(path)
        if not folder.is_dir():
            parser.error(f"{folder} is no folder of a checkpoint.")
        known = getattr(namespace, self.dest)
        setattr(namespace, self.dest, known | {name if given else folder.resolve().name: folder})


if __name__ == "__main__":
    sys.exit(main())
