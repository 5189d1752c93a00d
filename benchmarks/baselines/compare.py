"""Is the engine worth it? slant's checkpoints beside the cheap alternatives, on the same training and test texts.

    python benchmarks/baselines/compare.py --train train.csv --test test.csv --label label --group author \\
        --model mine=path/to/checkpoint --base base=path/to/its/base

The tables may be CSV, JSON Lines or Parquet; labels may have any names. ``--group`` names the column of what belongs
together, such as the author: intervals are drawn by it, since texts of one author are not independent. Systems are
fitted once and kept in a cache; a second call with the same data only measures. What is missing, such as a package
that carries a model, is said and skipped.

``--only quality`` and ``--only timing`` do one of the two. Quality does not depend on the machine; timing asks all
systems in turn for the same texts, each in a process of its own, and wants a machine that does nothing else.

Rows go to results/baselines.jsonl; baselines.md, the table, and baselines.svg, a picture, are made of the newest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from baselines import quality, timing
from baselines.data import Labelled, Task
from baselines.packaged import ModelAbsent
from baselines.plots import trade
from baselines.systems import Checkpoint, System, fitted, systems
from baselines.table import table
from environment import RESULTS, append, environment
from report import read
from slant.errors import SlantError
from texts import cache_folder

RESULT = "baselines"


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    console = Console()
    try:
        task = Task.read(options.train, options.test, text=options.text, label=options.label, group=options.group)
    except SlantError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 2
    for path, count in zip((options.train, options.test), task.left_out, strict=True):
        if count:
            console.print(f"{path}: {count} rows have no text or no label and are left out.", markup=False)
    train = task.train if options.training_texts is None else task.train.stratified(options.training_texts)
    chosen = [
        system
        for system in systems(options.model, options.base, options.weights)
        if any(fnmatch(system.name, pattern) for pattern in options.systems.split(","))
    ]
    if not chosen:
        console.print(f"no system is called {options.systems!r}.", style="red", markup=False)
        return 2
    head = environment() | {"run": datetime.now(UTC).isoformat(timespec="seconds"), "task": task.name}
    found: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        if options.only != "timing":
            found += qualities(chosen, train, task.test, options, progress)
        if options.only != "quality":
            found += timings(chosen, train, task.test, options, progress)
    for row in found:
        append(RESULT, head | row, options.results)
    rows = read(options.results / f"{RESULT}.jsonl")
    trade(rows, options.results / f"{RESULT}.svg")
    (options.results / f"{RESULT}.md").write_text(table(rows) + "\n", encoding="utf-8")
    console.print(table([row for row in rows if row["task"] == task.name]), markup=False, soft_wrap=True)
    return 0


def qualities(
    chosen: Sequence[System], train: Labelled, test: Labelled, options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """A row a system; ``against`` is the first of slant's own that answered, of which differences are."""
    rows: list[dict[str, Any]] = []
    labels = {}
    task = progress.add_task("", total=len(chosen))
    part = progress.add_task("", visible=False)

    def tell(done: int, total: int) -> None:
        progress.update(part, completed=done, total=total, visible=done < total, description="texts")

    for system in chosen:
        progress.update(task, description=system.name)
        row: dict[str, Any] = {"kind": "quality", "status": "ok"} | quality.described(system, train, test)
        try:
            folder, labels[system.name] = quality.answer(system, train, test, options.cache, tell)
            row |= quality.facts(folder) | quality.figures(test, labels[system.name])
        except (SlantError, ImportError) as error:
            row["status"] = reason(error)
        rows.append(row)
        progress.update(part, visible=False)
        progress.advance(task)
    own = (system.name for system in chosen if isinstance(system, Checkpoint) and system.tuned)
    against = next((name for name in own if name in labels), None)
    for row in rows:
        if against and row["status"] == "ok" and row["system"] != against:
            row |= {"against": against, "difference": quality.difference(test, labels[against], labels[row["system"]])}
    return rows


def timings(
    chosen: Sequence[System], train: Labelled, test: Labelled, options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """A row a system that can be fitted, all in the same rounds."""
    folders, failed = {}, []
    for system in (system for system in chosen if system.costs == system.name):
        try:
            folders[system.name] = fitted(system, train, options.cache)
        except (SlantError, ImportError) as error:
            failed.append({"system": system.name, "status": reason(error)})
    drawn = np.random.default_rng(0).permutation(len(test.texts))[: options.timing_texts]
    load = timing.Load(sys.executable, options.threads, test.names, options.model, options.base, options.weights)
    task = progress.add_task("", total=None)
    rows = timing.rows(
        load,
        folders,
        [test.texts[row] for row in drawn],
        rounds=options.rounds,
        max_seconds=options.max_seconds,
        progress=lambda doing: progress.update(task, description=doing),
    )
    return [{"kind": "timing", "data": test.digest} | row for row in rows + failed]


def reason(error: Exception) -> str:
    """Why a system cannot be had, and what to do."""
    known = isinstance(error, (SlantError, ModelAbsent))
    return str(error) if known else f"{error}; run pip install 'slant[baselines]'."


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
