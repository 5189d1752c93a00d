"""How time grows with the length of a text and with the number of texts, and how little of the work is padding.

    python benchmarks/growth.py --minutes 30

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import pictures
import report
from cpu import padding, workload
from harness.rows import RESULTS, Row, append, environment, percentiles
from harness.tables import rich_table
from harness.timing import rounds
from slant.errors import SlantError
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner

RESAMPLES = 1000
LONG = 512  # tokens: where the cost of a batch that does not grow no longer shows
FULL = 16  # texts of 128 tokens: a full batch on a CPU, beyond which there are more batches
FLAT = 64  # texts
COLUMNS = {key: key for key in ("texts", "length", "rounds")}
COLUMNS |= {"seconds": "seconds.p50:.4f", "tokens/s": "tokens_per_second:.0f"}
AIM = 1.2  # best over worst rate of 1 to 64 texts
Samples = Mapping[int, Sequence[float]]  # seconds by size


@dataclass(frozen=True)
class Series:
    """Shapes (texts, tokens each) of which one number grows: the ``length`` or the number of ``texts``."""

    name: str
    grows: str
    shapes: tuple[tuple[int, int], ...]
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def taken(self, shape: tuple[int, int]) -> list[float]:
        """The seconds of a shape, in the order of its rounds."""
        return self.seconds[shape[self.grows == "length"]]


def all_series(longest: int, most: int, many_long: int, padded: Callable[[int], int]) -> tuple[Series, ...]:
    """``padded`` gives the length that a text is padded to."""

    def doubling(first: int, last: int) -> list[int]:
        return [first << step for step in range(last.bit_length()) if first << step <= last]

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
    count: int,
    now: Callable[[], float] = time.monotonic,
    done: Callable[[str], None] = lambda what: None,
) -> None:
    """Fill the series' seconds by ``run(texts, length)``, in up to ``count`` rounds before ``until``.

    The first round goes from the smallest shape to the largest, and predicts by tokens; later ones know. No shape is
    begun that would not be over in time. ``done`` is called with each shape that was run.
    """
    everything = [(one, shape) for one in series for shape in one.shapes]
    everything.sort(key=lambda item: item[1][0] * item[1][1])
    token = 0.0

    def one_call(item: tuple[Series, tuple[int, int]], number: int) -> None:
        nonlocal token
        one, (rows, length) = item
        taken = one.taken((rows, length))
        if now() + (float(np.median(taken)) if taken else token * rows * length) <= until:
            taken.append(run(rows, length))
            token = taken[-1] / (rows * length)
            done(f"{rows} x {length}")

    rounds(everything, count, one_call)


class Slope(NamedTuple):
    """seconds = ``seconds_at_1`` * size ** ``exponent`` over sizes ``first`` to ``last``, fitted in logarithms.

    The exponent is that of the medians; from ``low`` to ``high`` are 95 % of those of rounds drawn anew.
    """

    first: int
    last: int
    exponent: float
    low: float
    high: float
    seconds_at_1: float


def fit(samples: Samples, first: int = 1, last: int | None = None) -> Slope:
    """The slope over the sizes from ``first`` to ``last``; raises ValueError for fewer than two of them."""
    sizes = sorted(size for size in samples if first <= size and (last is None or size <= last))
    if len(sizes) < 2:
        raise ValueError(f"a slope takes two sizes, and from {first} on there are {len(sizes)}.")
    rng, x = np.random.default_rng(0), np.log(sizes)
    taken = [np.asarray(samples[size], dtype=np.float64) for size in sizes]
    exponent, offset = np.polyfit(x, np.log([np.median(one) for one in taken]), 1)
    drawn = [np.median(one[rng.integers(0, len(one), (RESAMPLES, len(one)))], axis=1) for one in taken]
    low, high = np.percentile(np.polyfit(x, np.log(drawn), 1)[0], [2.5, 97.5])
    return Slope(sizes[0], sizes[-1], float(exponent), float(low), float(high), float(np.exp(offset)))


def flatness(samples: Samples, length: int, most: int) -> float:
    """The best over the worst median rate of tokens among batches of 1 to ``most`` texts of one length."""
    rates = [size * length / float(np.median(seconds)) for size, seconds in samples.items() if size <= most]
    return max(rates) / min(rates)


def points(series: Sequence[Series]) -> Iterator[Row]:
    """A row for every shape that was measured."""
    for one in series:
        for rows, length in one.shapes:
            if taken := one.taken((rows, length)):
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
                yield row | {key: round(x, 6) for key, x in fit(seconds, first, last)._asdict().items()}
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
        folder = workload.checkpoint(options.model, console.print)
    except SlantError as error:
        console.print(str(error))
        return 2

    runner = workload.load(folder)
    about = environment() | {"model": folder.name, "dtype": workload.dtype(runner)}
    series = all_series(options.longest, options.most, options.many_long, partial(padded_length, runner))
    workload.run(runner, workload.texts(runner, [1024]))  # first-touched memory

    def timed(rows: int, length: int) -> float:
        texts = workload.texts(runner, [length] * rows)
        start = time.perf_counter()
        workload.run(runner, texts)
        return time.perf_counter() - start

    shapes = sum(len(one.shapes) for one in series)
    with Progress(console=console, transient=True) as progress:
        tell = partial(progress.update, progress.add_task("", total=shapes * options.rounds), advance=1)
        measure(series, timed, until, options.rounds, done=lambda what: tell(description=what))

    rows = [*points(series), *fits(series)]
    rows += [{"kind": "padding"} | padding.row(found, runner) for found in padding.workloads(Prompt.load(folder))]
    rows = [about | row for row in rows]
    for row in rows:
        append("growth", row, options.results)
    console.print(rich_table([row for row in rows if row["kind"] == "point"], COLUMNS))
    console.print(report.listed(report.growth_lines(rows)), markup=False, highlight=False)
    missing = [f"{a} x {b}" for one in series for a, b in one.shapes if not one.taken((a, b))]
    if missing:
        console.print(f"Not measured for lack of time: {', '.join(missing)}; give more --minutes.")
    pictures.growth(rows, options.results / "growth.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
