"""The kernels' part of the GPU suite: the limits, then each case beside its peers or a search of configurations."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import torch
from rich.console import Console

from gpu import tune
from gpu.case import Case
from gpu.kernel_cases import cases
from gpu.measure import Bench, add, table
from gpu.timing import GpuClock, Limits
from harness.rows import RESULTS, append, environment, gpu

NAME = "gpu_kernels"


def run(options: Namespace, console: Console, deadline: float) -> int:
    """Everything that the options ask for on the current CUDA device; no case starts after ``deadline``."""
    about, limits = found(options, console)
    bench = Bench(GpuClock(), torch.device("cuda"), limits, int(about["l2_bytes"]), options.seconds)
    wanted = chosen(cases(), [options.tune] if options.tune else options.op, options.shape)
    if not wanted:
        console.print(f"No case is called so; ops are {', '.join(dict.fromkeys(case.op for case in cases()))}.")
        return 2
    if options.tune:
        stamp = f"{about['gpu']}, torch {about['torch']}, triton {about['triton']}, {about['commit']}"
        return tune.run(bench, wanted, console, stamp, deadline)
    shown, done = table(), 0
    for case in wanted:
        if time.monotonic() > deadline:
            break
        measured = bench.measure(case, peers=not options.no_peers)
        rows, clock = list(bench.rows(measured)), gpu()["sm_clock"]
        for row in rows:
            append(NAME, about | {"sm_clock": clock} | row, options.results or RESULTS)
        add(shown, rows, measured.reasons)
        done += 1
        del measured
        torch.cuda.empty_cache()
    console.print(shown)
    if done < len(wanted):
        console.print(f"{len(wanted) - done} cases were not timed, from {wanted[done].op} {wanted[done].label} on.")
    return 0


def found(options: Namespace, console: Console) -> tuple[dict[str, Any], Limits]:
    """What every row says of the run, and the device's limits, measured now; both are printed."""
    about = environment() | gpu() | {"tests": "skipped" if options.skip_tests else "passed"}
    if options.commit:
        about["commit"] = options.commit
    limits = Limits.measure(GpuClock(), torch.device("cuda"))
    torch.cuda.empty_cache()  # of what was copied and multiplied
    console.print(f"{about['gpu']}, driver {about['driver']}, torch {about['torch']}, triton {about['triton']}")
    console.print(f"copy {limits.bytes_per_s / 1e12:.2f} TB/s, bf16 product {limits.flops_per_s / 1e12:.0f} TFLOP/s")
    return about, limits


def chosen(everything: list[Case], ops: list[str] | None, shape: str | None) -> list[Case]:
    return [case for case in everything if case.timed and case.op in (ops or [case.op]) and (shape or "") in case.label]
