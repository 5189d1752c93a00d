"""The whole model on the GPU: every way to hold it, measured; then beside transformers; rows and tables.

What is measured of each way stands in ``model_measures``. No measure is started after the deadline, and those that were
not are named.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console

from gpu import cold_start, model_peer
from gpu.device import Gpu
from gpu.kernel_cases import MODEL
from gpu.model_measures import Bench, Row, Scope
from gpu.model_tables import tables
from gpu.model_tiers import BF16_RESIDENT, WAYS, Loaded, Way, load
from gpu.run import found
from harness.rows import RESULTS, append, gpu
from random_model import SHAPES
from slant.errors import SlantError

NAME = "gpu_model"
SHAPE = "4b"
MEASURES = {
    "resident": ("memory", "latency", "throughput", "waterfall"),
    "packed": ("memory", "latency", "throughput", "waterfall"),
    "packed, host": ("memory",),
    "streamed": ("memory", "latency", "throughput"),
}


@dataclass
class Journal:
    """Takes rows as they come: keeps them for the tables, and hands each to ``write``."""

    write: Callable[[Row], None]
    rows: list[Row]
    undone: list[str]

    def take(self, measure: str, way: str, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows.append({"measure": measure, "weights": way} | row)
            self.write(self.rows[-1])


def run(options: Namespace, console: Console, deadline: float) -> int:
    """Every way and a cold start on the current CUDA device."""
    journal, bench = _session(options, console)
    measure(bench, journal, deadline)
    if time.monotonic() < deadline:
        journal.take("cold start", "demo checkpoint, bf16", cold_start.suite(str(bench.device.place)))
    else:
        journal.undone.append("the cold start")
    return show(journal, console)


def peers(options: Namespace, console: Console, deadline: float) -> int:
    """Our bf16 and transformers' in turn."""
    journal, bench = _session(options, console)
    beside(bench, journal, SHAPES[SHAPE], deadline)
    return show(journal, console)


def _session(options: Namespace, console: Console) -> tuple[Journal, Bench]:
    about, limits = found(options, console)
    fixed = about | {"model": SHAPE, "copy_bytes_per_s": limits.bytes_per_s, "matmul_flops_per_s": limits.flops_per_s}

    def write(row: Row) -> None:
        append(NAME, fixed | {"sm_clock": gpu()["sm_clock"]} | row, options.results or RESULTS)

    return Journal(write, [], []), Bench(Gpu(), limits, Scope(MODEL))


def measure(bench: Bench, journal: Journal, deadline: float, ways: Iterable[Way] = WAYS) -> None:
    """All measures of all ways, one model on the device at a time."""
    for way in ways:
        if time.monotonic() > deadline:
            journal.undone.append(way.name)
            continue
        try:
            _way(bench, journal, way, deadline)
        except (torch.OutOfMemoryError, SlantError) as error:
            journal.undone.append(f"{way.name} from here on, which does not fit: {str(error).splitlines()[0]}")
        bench.device.free()


def _way(bench: Bench, journal: Journal, way: Way, deadline: float) -> None:
    before, made = bench.device.held(), []
    arguments = way, bench.scope.config, bench.device.place, bench.scope.max_tokens
    peak = bench.device.peak(lambda: made.append(load(*arguments)))
    (loaded,) = made
    made.clear()
    measures: dict[str, Callable[[Loaded], Iterator[Row]]] = {
        "memory": partial(bench.memory, before=before, while_loading=peak),
        "latency": bench.latency,
        "throughput": bench.throughput,
        "waterfall": bench.waterfall,
    }
    for name in MEASURES[way.kind]:
        if time.monotonic() > deadline:
            journal.undone.append(f"{name} of {way.name}")
        else:
            journal.take(name, way.name, measures[name](loaded))


def beside(bench: Bench, journal: Journal, shape: dict[str, Any], deadline: float) -> None:
    """Each mixture by the runner and by transformers, both models on the device."""
    try:
        loaded = load(BF16_RESIDENT, bench.scope.config, bench.device.place, bench.scope.max_tokens)
        model = model_peer.build(shape, bench.device.place)
        for name, rows in model_peer.mixtures(bench, loaded, model):
            if time.monotonic() > deadline:
                journal.undone.append(f"{name} beside transformers")
            else:
                journal.take("peers", "bf16", rows)
    except torch.OutOfMemoryError as error:
        journal.undone.append(f"transformers, for which there is no room: {str(error).splitlines()[0]}")


def show(journal: Journal, console: Console) -> int:
    """Print the tables and what is missing; 1 if a replay answered otherwise than op by op."""
    for table in tables(journal.rows):
        console.print(table)
    for undone in journal.undone:
        console.print(f"Not measured: {undone}.", markup=False)
    wrong = [row for row in journal.rows if row.get("equals_eager") is False]
    for row in wrong:
        console.print(f"The graph of {row['tokens']} tokens, {row['weights']}, does not answer as op by op does.")
    return 1 if wrong else 0
