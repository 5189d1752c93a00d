"""Measures what static batches cost on this device with this model, and writes the table that the planner reads.

Token ids are random and start with a prefix of 30 tokens, from whose state the runner starts, as in real use: a length
is what is computed. Shapes take turns within each repetition, in an order drawn anew, so that a slow moment meets them
all; the median counts. Lengths and rows double up to the token budget. A call runs one batch and waits for its answers,
which is what a deadline means; with ``--batches 4`` it runs four, and a batch's time is a quarter, which is what
throughput means where a GPU is given work ahead.

Run ``python benchmarks/batch_costs.py MODEL --output costs.json`` with a folder that ``random_model.py`` wrote, or any.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table as Grid

from environment import environment
from slant.batching.buckets import bucket_length
from slant.batching.costs import Table, default_costs, forward_flops
from slant.model.qwen3_5 import Model
from slant.model.source import open_model
from slant.model.weights import Weights
from slant.runtime.classifier import DTYPES, TOKEN_BUDGETS, choose_device, choose_dtype
from slant.runtime.execution import Head
from slant.runtime.runner import Runner

ANSWERS = (15, 16, 17, 18, 19)
PREFIX = 30
Shape = tuple[int, int]  # rows, padded length


def shapes(longest: int, limit: int, token_budget: int) -> Iterator[Shape]:
    """Rows and lengths to measure, the largest batches first: what runs out of memory does so at once."""
    lengths = {bucket_length(16 * 2**i, limit) for i in range(longest.bit_length()) if 16 * 2**i < longest}
    for length in sorted(lengths | {bucket_length(longest, limit)}, reverse=True):
        most = max(1, token_budget // length)
        rows = {most} | {2**i for i in range(most.bit_length())}
        yield from ((count, length) for count in sorted(rows, reverse=True))


def measure(runner: Runner, wanted: Iterable[Shape], repetitions: int, batches: int = 1) -> dict[Shape, float]:
    """Median seconds of a batch of each shape."""
    rng = np.random.default_rng(0)
    wanted = list(wanted)
    seconds: dict[Shape, list[float]] = {shape: [] for shape in wanted}
    order = wanted + [wanted[i] for _ in range(repetitions) for i in rng.permutation(len(wanted))]
    for step, (rows, length) in enumerate(track(order, "measuring", console=Console(stderr=True))):
        bodies = rng.integers(0, runner.model.config.vocab_size, (rows * batches, length), dtype=np.int32)
        sequences = [np.concatenate([runner.prefix_ids, body]) for body in bodies]
        runner.token_budget = rows * length
        start = time.perf_counter()
        results = list(runner.run(sequences))
        elapsed = time.perf_counter() - start
        assert [result.computed_tokens for result in results] == [rows * length] * batches
        if step >= len(wanted):  # the first turn warms up
            seconds[rows, length].append(elapsed / batches)
    return {shape: round(median(times), 7) for shape, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")
    parser.add_argument("--token-budget", type=int, help="by default the device's")
    parser.add_argument("--longest", type=int, default=2048, help="tokens of the longest batch")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=1, help="of one shape in a call")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    device = choose_device(options.device)
    dtype = choose_dtype(options.weights, device)
    source = open_model(options.model, options.weights, device)
    budget = options.token_budget or TOKEN_BUDGETS[device.type]
    limit = max(8192, options.longest + PREFIX)
    model = Model(Weights(source, dtype, device), limit)
    norm, rows = source.read("norm.weight").to(device).float(), source.head_rows(ANSWERS).to(device).float()
    head = Head(norm, rows, source.config.rms_norm_eps)
    prefix = np.random.default_rng(0).integers(0, 10_000, PREFIX)
    runner = Runner(model, head, prefix.tolist(), max_tokens=limit, token_budget=budget)

    wanted = list(shapes(options.longest, limit - PREFIX, budget))
    measured = measure(runner, wanted, options.repetitions, options.batches)

    about = environment()
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else about["processor"]
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    kind = next(name for name, value in DTYPES.items() if value == dtype)
    token, square = forward_flops(source.config)
    Table(
        device=f"{processor}, {kind}" + (f", {threads} threads" if device.type == "cpu" else ""),
        model=options.model.name,
        versions={key: str(about[key]) for key in ("commit", "torch", "triton")},
        attention=square / token,
        points=measured,
    ).write(options.output)

    default = default_costs(source.config, device.type, dtype.itemsize, threads)
    grid = Grid("rows", "length", "seconds", "tokens/s", "TFLOP/s", "default s")
    for (count, length), seconds in measured.items():
        flops = count * (token * length + square * length**2)
        figures = f"{seconds:.5f}", f"{count * length / seconds:.0f}", f"{flops / seconds / 1e12:.2f}"
        grid.add_row(str(count), str(length), *figures, f"{float(default.seconds(count, length)):.5f}")
    Console().print(grid)


if __name__ == "__main__":
    main()
