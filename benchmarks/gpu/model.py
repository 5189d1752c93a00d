"""The whole model on the GPU: one way to hold it, measured; or beside transformers; rows and tables.

What is measured of each way stands in ``model_measures``. No measure is started after the deadline, and those that were
not are named; one that fails leaves a row that says why, and the others go on. The dry run does the same with tiny
shapes on the CPU's torch path and reports no time: it shows that every measure runs to its rows and tables, before a
GPU is paid for.
"""

from __future__ import annotations

import math
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console

from gpu import cold_start, model_peer, rates
from gpu.device import NO_LIMITS, DryRun, Gpu
from gpu.kernel_cases import MODEL, TINY, TINY_SHAPE
from gpu.kernels import found
from gpu.model_measures import Bench, Scope, answers
from gpu.model_peer import OURS, THEIRS
from gpu.model_tiers import BF16_RESIDENT, WAYS, Loaded, Way, load
from harness.rows import Row, append, gpu
from harness.tables import rich_table
from random_model import SHAPES
from slant.batching.costs import default_costs
from slant.errors import SlantError

NAME = "gpu_model"
SHAPE = "4b"
MEASURES = {
    "resident": ("memory", "latency", "throughput", "waterfall"),
    "quantized": ("memory", "latency", "throughput", "waterfall"),
    "quantized, host embedding": ("memory",),
    "offload": ("memory", "latency", "throughput"),
}
TINY_SCOPE = Scope(
    TINY,
    max_tokens=160,
    token_budget=320,
    requests_of=((1, 10), (2, 70), (1, 130)),
    graph_tokens=100,
    texts=(("posts", 6), ("speeches", 3)),
    short=16,
    batches=((1, 12), (2, 70)),
    rounds=1,
    requests=(2, 2),
)
_RATES = {
    "texts": "texts",
    "tokens": "tokens",
    "texts/s": "texts_per_s:.1f",
    "tokens/s": "tokens_per_s:.0f",
    "of the matmul": "of_matmul:.0%",
}
# By measure: the title of its table, and its columns.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "memory": (
        "texts that fill max_tokens, in GB",
        {
            "held": "held_bytes:.3f/1e9",
            "predicted held": "predicted_held_bytes:.3f/1e9",
            "peak": "peak_bytes:.3f/1e9",
            "predicted peak": "predicted_peak_bytes:.3f/1e9",
            "ratio": "measured_over_predicted:.3f",
            "aim": "aim_bytes:.1f/1e9",
            "loading": "loading_peak_bytes:.3f/1e9",
        },
    ),
    "latency": (
        "requests of texts of so many tokens after the prefix, from ids to probabilities, in ms",
        {"texts": "texts", "tokens": "tokens", "by": "by"}
        | {part: f"milliseconds.{part}:.2f" for part in ("p50", "p95", "p99")}
        | {"requests": "requests", "equal": "equals_eager", "of the matmul": "of_matmul:.0%"},
    ),
    "throughput": (
        "all texts of a mixture in one call",
        {"mixture": "mixture"} | _RATES | {"real / computed": "fill:.0%"},
    ),
    "waterfall": (
        "one batch by op",
        {"batch": "batch", "op": "op", "calls": "calls", "µs": "microseconds:.0f", "limit µs": "limit_microseconds:.0f"}
        | {"share": "share:.0%", "of the limit": "of_limit:.0%"},
    ),
    "peers": ("the same texts in turn", {"mixture": "mixture", "by": "by"} | _RATES | {"": "reason"}),
    "rates": ("what the card reaches", {"rate": "rate", "value": "value:.4g", "unit": "unit", "": "failure"}),
    "cold start": (
        "a new process to its first answer, in s",
        {"kernels": "kernels"}
        | {part: f"seconds.{part}:.2f" for part in cold_start.PARTS}
        | {"total": "total_seconds:.2f"},
    ),
}


@dataclass
class Journal:
    """Takes rows as they come: keeps them for the tables, and hands each to ``write``."""

    write: Callable[[Row], None] = lambda row: None
    rows: list[Row] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def take(self, measure: str, way: str, rows: Iterable[Row]) -> None:
        """All rows of a measure; a failure is a row of its own, and is kept in ``failed``."""
        about = {"measure": measure, "weights": way}
        try:
            for row in rows:
                self.rows.append(about | row)
                self.write(self.rows[-1])
        except Exception:
            failure = traceback.format_exc().strip().splitlines()
            self.failed.append(f"{measure} of {way}: {failure[-1][:300]}")
            self.write(about | {"failure": failure[-20:]})


def session(options: Namespace, console: Console) -> tuple[Bench, Journal]:
    """The device with its limits, and a journal that appends to the result file; without a GPU, both in small."""
    if options.dry_run:
        return Bench(DryRun(), NO_LIMITS, TINY_SCOPE), Journal()
    about, limits = found(options, console)
    fixed = about | {"model": SHAPE, "copy_bytes_per_s": limits.bytes_per_s, "matmul_flops_per_s": limits.flops_per_s}

    def write(row: Row) -> None:
        append(NAME, fixed | {"sm_clock": gpu()["sm_clock"]} | row, options.out)

    return Bench(Gpu(), limits, Scope(MODEL)), Journal(write)


def limits(options: Namespace, console: Console) -> int:
    """What the card reaches."""
    bench, journal = session(options, console)
    small = {"side": 32, "copied": 1 << 10} if options.dry_run else {}
    journal.take("rates", "", rates.rates(bench.device, bench.limits, **small))
    return show(journal, console)


def run(options: Namespace, console: Console, deadline: float, name: str) -> int:
    """All measures of the way with this name."""
    bench, journal = session(options, console)
    measure(bench, journal, next(way for way in WAYS if way.name == name), deadline)
    return show(journal, console)


def peers(options: Namespace, console: Console, deadline: float) -> int:
    """Our bf16 and transformers', in turn."""
    bench, journal = session(options, console)
    beside(bench, journal, TINY_SHAPE if options.dry_run else SHAPES[SHAPE], deadline)
    return show(journal, console)


def start(options: Namespace, console: Console) -> int:
    """Cold starts: with nothing compiled, with what was compiled then, and with a folder compiled ahead of time."""
    bench, journal = session(options, console)
    if options.dry_run:
        untold = {"seconds": dict.fromkeys(cold_start.PARTS, math.nan), "total_seconds": math.nan}
        rows: Iterable[Row] = (row | untold for row in cold_start.suite("cpu", ("compiled",)))
    else:
        rows = cold_start.suite(str(bench.device.place), ahead=options.compiled)
    journal.take("cold start", "demo checkpoint, bf16", rows)
    return show(journal, console)


def measure(bench: Bench, journal: Journal, way: Way, deadline: float) -> None:
    """All measures of a way."""
    before, made = bench.device.held(), list[Loaded]()
    arguments = way, bench.scope.config, bench.device.place, bench.scope.max_tokens
    try:
        peak = bench.device.peak(lambda: made.append(load(*arguments)))
    except (torch.OutOfMemoryError, SlantError) as error:
        journal.undone.append(f"{way.name}, which does not fit: {str(error).splitlines()[0]}")
        return
    loaded = made.pop()
    for name in MEASURES[way.kind]:
        if time.monotonic() > deadline:
            journal.undone.append(f"{name} of {way.name}")
        else:
            more = (before, peak) if name == "memory" else ()
            journal.take(name, way.name, getattr(bench, name)(loaded, *more))
            bench.device.free()


def beside(bench: Bench, journal: Journal, shape: dict[str, Any], deadline: float) -> None:
    """Each mixture by the runner and by transformers, both models on the device."""
    scope, place = bench.scope, bench.device.place
    try:
        loaded = load(BF16_RESIDENT, scope.config, place, scope.max_tokens)
        runner = loaded.runner(scope.token_budget, default_costs(scope.config, "cuda", 2))
        runs = {OURS: partial(answers, runner), THEIRS: partial(model_peer.run, model_peer.build(shape, place))}
    except torch.OutOfMemoryError as error:
        journal.undone.append(f"transformers, for which there is no room: {str(error).splitlines()[0]}")
        return
    for name, texts in scope.mixtures(scope.peer_texts):
        if time.monotonic() > deadline:
            journal.undone.append(f"{name} beside transformers")
        else:
            journal.take("peers", "bf16", model_peer.beside(bench, name, texts, runs))


def show(journal: Journal, console: Console) -> int:
    """Print the tables and what is missing; 1 if something failed, or a replay answered otherwise than op by op."""
    for measure, (title, columns) in TABLES.items():
        if mine := [row for row in journal.rows if row["measure"] == measure]:
            console.print(rich_table(mine, {"weights": "weights"} | columns, f"{measure}: {title}"))
    for undone in journal.undone:
        console.print(f"Not measured: {undone}.", markup=False)
    for failure in journal.failed:
        console.print(f"Failed: {failure}", markup=False)
    wrong = [row for row in journal.rows if row.get("equals_eager") is False]
    for row in wrong:
        console.print(f"The graph of {row['tokens']} tokens, {row['weights']}, does not answer as op by op does.")
    return 1 if wrong or journal.failed else 0
