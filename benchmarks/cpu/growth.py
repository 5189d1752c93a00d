"""How time grows with the length of a text and with the number of texts, and how little of the work is padding.

    python benchmarks/cpu/growth.py --minutes 30

One text of 16 to 8192 tokens; 1 to 256 texts of 128 tokens; 1 to 64 texts of 1024 tokens. Lengths are such
that the engine pads none of them, which would blur the exponents. Shapes take turns, in an order drawn anew in each
round, until the time is over; a shape that would not end in time is left out. Rows go to results/growth.jsonl, points
and fits and padding, and the last run is drawn as results/growth.svg.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cpu import checkpoint, padding, plots, workload
from cpu.slopes import fit, flatness
from environment import RESULTS, append, environment, percentiles
from slant.errors import SlantError
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner

LONG = 512  # tokens: where the cost of a batch that does not grow no longer shows
FULL = 16  # texts of 128 tokens: a full batch on a CPU, beyond which there are more batches
FLAT = 64  # texts
AIM = 1.2  # best over worst rate of 1 to 64 texts
Row = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """Shapes (texts, tokens each) of which one number grows: the ``length`` or the number of ``texts``."""

    name: str
    grows: str
    shapes: tuple[tuple[int, int], ...]
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def size(self, shape: tuple[int, int]) -> int:
        return shape[self.grows == "length"]


def doubling(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def all_series(longest: int, most: int, many_long: int, padded: Callable[[int], int]) -> tuple[Series, ...]:
    """``padded`` gives the length that a text is padded to."""
    return (
        Series("one text", "length", tuple((1, padded(length)) for length in doubling(16, longest))),
        Series("texts of 128", "texts", tuple((rows, 128) for rows in doubling(1, most))),
        Series("texts of 1024", "texts", tuple((rows, 1024) for rows in doubling(1, many_long))),
    )


def padded_length(runner: Runner, length: int) -> int:
    """What the engine pads one text of a length to."""
    (batch,) = runner.batches(workload.texts(runner, [length]))
    return batch.ids.shape[1]


def measure(
    series: Sequence[Series],
    run: Callable[[int, int], float],
    until: float,
    rounds: int,
    now: Callable[[], float] = time.monotonic,
    done: Callable[[str], None] = lambda what: None,
) -> None:
    """Fill the series' seconds by ``run(texts, length)``, in up to ``rounds`` rounds before ``until``.

    The first round goes from the smallest shape to the largest, and predicts by tokens; later ones know. No shape is
    begun that would not be over in time. ``done`` is called with each shape that was run.
    """
    everything = [(one, shape) for one in series for shape in one.shapes]
    everything.sort(key=lambda item: item[1][0] * item[1][1])
    rng, token = np.random.default_rng(0), 0.0
    for turn in range(rounds):
        order = range(len(everything)) if turn == 0 else rng.permutation(len(everything))
        for i in order:
            one, (rows, length) = everything[i]
            known = one.seconds[one.size((rows, length))]
            expected = float(np.median(known)) if known else token * rows * length
            if now() + expected > until:
                continue
            known.append(run(rows, length))
            token = known[-1] / (rows * length)
            done(f"{rows} x {length}")


def points(series: Sequence[Series]) -> Iterator[Row]:
    """A row for every shape that was measured."""
    for one in series:
        for rows, length in one.shapes:
            if taken := one.seconds[one.size((rows, length))]:
                spread, tokens = percentiles(taken), rows * length
                row = {"kind": "point", "series": one.name, "texts": rows, "length": length, "tokens": tokens}
                rate = round(tokens / spread["p50"], 1)
                yield row | {"rounds": len(taken), "seconds": spread, "tokens_per_second": rate}


def fits(series: Sequence[Series]) -> Iterator[Row]:
    """A row for every slope and flatness that the measured shapes give."""
    for one in series:
        seconds = {size: taken for size, taken in one.seconds.items() if taken}
        parts = [(1, None, "all")]
        parts += [(LONG, None, "long")] if one.grows == "length" else [(1, FULL, "one batch"), (FULL, None, "batches")]
        for first, last, part in parts if one.name != "texts of 1024" else ():
            if sum(first <= size <= (last or size) for size in seconds) >= 2:
                row = {"kind": "slope", "series": one.name, "grows": one.grows, "part": part}
                yield row | {key: round(x, 6) for key, x in vars(fit(seconds, first, last)).items()}
        if one.grows == "texts" and len(seconds) >= 2:
            length = one.shapes[0][1]
            row = {"kind": "flatness", "series": one.name, "length": length, "to": min(FLAT, max(seconds))}
            yield row | {"best_over_worst": round(flatness(seconds, length, FLAT), 4), "aim": AIM}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint's folder; by default random weights of 0.8B")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no shape is begun")
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--longest", type=int, default=workload.LONGEST, help="tokens of a single text")
    parser.add_argument("--most", type=int, default=256, help="texts of 128 tokens")
    parser.add_argument("--many-long", type=int, default=FLAT, help="texts of 1024 tokens")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of growth.jsonl and growth.svg")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    until, console = time.monotonic() + 60 * options.minutes, Console()
    try:
        folder = checkpoint.ensure(options.model, console.print)
    except SlantError as error:
        console.print(str(error))
        return 2

    runner = workload.load(folder)
    about = environment() | {"model": folder.name, "dtype": workload.dtype(runner)}
    series = all_series(options.longest, options.most, options.many_long, partial(padded_length, runner))
    workload.run(runner, workload.texts(runner, [1024]))  # first-touched memory

    def run(rows: int, length: int) -> float:
        texts = workload.texts(runner, [length] * rows)
        start = time.perf_counter()
        workload.run(runner, texts)
        return time.perf_counter() - start

    with Progress(BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=options.rounds * sum(len(one.shapes) for one in series))
        step = partial(progress.update, task, advance=1)
        measure(series, run, until, options.rounds, done=lambda shape: step(description=shape))

    rows = [*points(series), *fits(series)]
    rows += [{"kind": "padding"} | padding.row(found, runner) for found in padding.workloads(Prompt.load(folder))]
    for row in rows:
        append("growth", about | row, options.results)
    show(rows, console)
    missing = [f"{a} x {b}" for one in series for a, b in one.shapes if not one.seconds[one.size((a, b))]]
    if missing:
        console.print(f"Not measured for lack of time: {', '.join(missing)}; give more --minutes.")
    plots.growth([about | row for row in rows], options.results / "growth.svg")
    return 0


def show(rows: Sequence[Row], console: Console) -> None:
    """Points, slopes, flatness and padding as tables."""
    table = Table("texts", "length", "rounds", "seconds", "tokens/s")
    for row in rows:
        if row["kind"] == "point":
            figures = f"{row['seconds']['p50']:.4f}", f"{row['tokens_per_second']:.0f}"
            table.add_row(*(str(row[key]) for key in ("texts", "length", "rounds")), *figures)
    console.print(table)
    for row in rows:
        if row["kind"] == "slope":
            interval = f"{row['exponent']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            console.print(f"{row['series']}, {row['part']}: seconds grow with {row['grows']} to the power {interval}")
        elif row["kind"] == "flatness":
            console.print(f"{row['series']}: best over worst rate {row['best_over_worst']:.2f}, aim {row['aim']:.2f}")
        elif row["kind"] == "padding":
            console.print(f"{row['workload']}: {row['fill']:.1%} of the tokens are real, aim {row['aim']:.0%}")


if __name__ == "__main__":
    sys.exit(main())
