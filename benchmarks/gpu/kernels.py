"""The kernels' part of the suite: each case timed beside its peers, or, without a GPU, only run.

The dry run takes every case at tiny sizes through Triton's interpreter. It shows that the cases run and that ``bytes``
is what their tensors hold, before a GPU is paid for. It does not look at results, and cannot: the interpreter
multiplies matrices of bf16 as if they were integers.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from unittest import mock

import numpy as np
import torch
from rich.console import Console

from gpu import tune
from gpu.case import Case
from gpu.device import NO_LIMITS, Arguments, DryRun, Gpu, Limits, Sample, held, input_sets, turns
from gpu.kernel_cases import TINY, cases
from harness.rows import Row, append, environment, gpu, percentiles, read
from harness.tables import rich_table
from slant_kernels import launch

NAME = "gpu_kernels"
OURS = "slant"
TITLE = "of the limit: the least time for the bytes or the FLOPs, what binds, over the time"
COLUMNS = {
    "op": "op",
    "shape": "shape",
    "by": "by",
    "µs": "microseconds.p50:.1f",
    "p20": "microseconds.p20:.1f",
    "p80": "microseconds.p80:.1f",
    "GB/s": "bytes_per_s:.0f/1e9",
    "TFLOP/s": "flops_per_s:.1f/1e12",
    "of the limit": "of_limit:.0%",
    "bound by": "bound_by",
    "": "note",
}


@dataclass(frozen=True)
class Bench:
    """A device with its limits, on which cases are timed for ``seconds`` a contender."""

    device: DryRun
    limits: Limits
    cache: int = 0  # bytes of L2
    seconds: float = 0

    def measure(self, case: Case, peers: bool = True) -> tuple[list[Row], dict[str, str]]:
        """A row a contender for the result file, ours first; and why peers have none."""
        sets = input_sets(partial(case.make, self.device.place), case.bytes, self.cache)
        loops: dict[str, Sample] = {OURS: self.device.loop(case.run, sets, captured=True)}
        captured, reasons = {OURS: True}, {}
        for peer in case.peers if peers else ():
            if reason := peer.missing():
                reasons[peer.name] = reason
                continue
            try:
                theirs: list[Arguments] = [peer.prepare(*arguments) for arguments in sets]
                loops[peer.name] = self.device.loop(peer.run, theirs, peer.captured)
            except Exception as error:  # another library's failure is its own; ours would end the run
                reasons[peer.name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            captured[peer.name] = peer.captured
        rows = [
            {
                "op": case.op,
                "shape": case.label,
                "by": name,
                "microseconds": percentiles([1e6 * sample for sample in samples]),
                "bytes": case.bytes,
                "flops": case.flops,
                "bytes_per_s": case.bytes / median(samples),
                "flops_per_s": case.flops / median(samples),
                "bound_by": self.limits.binds(case.bytes, case.flops),
                "of_limit": round(self.limits.floor(case.bytes, case.flops) / median(samples), 4),
                "cuda_graph": captured[name],
                "samples": len(samples),
                "input_sets": len(sets),
                "copy_bytes_per_s": self.limits.bytes_per_s,
                "matmul_flops_per_s": self.limits.flops_per_s,
            }
            for name, samples in turns(loops, self.seconds).items()
        ]
        return rows, reasons


def noted(rows: Sequence[Row], reasons: dict[str, str]) -> Iterator[Row]:
    """The rows of one case for the table: beside ours how long a peer takes, or why it has no time."""
    for row in rows:
        times = row["microseconds"]["p50"] / rows[0]["microseconds"]["p50"]
        notes = [] if row is rows[0] or math.isnan(times) else [f"{times:.2f} x ours"]
        note = " ".join([*notes, *([] if row["cuda_graph"] else ["no graph"])])
        yield row | {"note": note, "flops_per_s": row["flops_per_s"] if row["flops"] else None}
    for name, reason in reasons.items():
        yield {"op": rows[0]["op"], "shape": rows[0]["shape"], "by": name, "note": reason}


def run(options: Namespace, console: Console, deadline: float, tuned: bool = False) -> int:
    """Everything that the options ask for on the current CUDA device, or all of it tiny on the CPU.

    With ``tuned`` configurations are searched, else cases are timed; none starts after ``deadline``.
    """
    if options.dry_run:
        return 0 if tuned else dry_run(options, console)
    about, limits = found(options, console)
    bench = Bench(Gpu(), limits, int(about["l2_bytes"]), options.seconds)
    here = launch.target(bench.device.place)
    wanted = chosen([case for case in cases() if case.runs_on(here)], options.op, options.shape)
    if not wanted:
        console.print(f"No case is called so; ops are {', '.join(dict.fromkeys(case.op for case in cases()))}.")
        return 2
    if tuned:
        wanted = [case for case in wanted if tune.SHAPES.fullmatch(case.label)]
        wanted = wanted if options.op else worst_first(wanted, read(options.out / "gpu_model.jsonl"))
        stamp = f"{about['gpu']}, torch {about['torch']}, triton {about['triton']}, {about['commit']}"

        def write(row: Row) -> None:
            append(tune.NAME, about | row, options.out)

        return tune.run(bench.device, bench.cache, bench.seconds, wanted, console, stamp, deadline, write)
    shown: list[Row] = []
    done = 0
    for case in wanted:
        if time.monotonic() > deadline:
            break
        rows, reasons = bench.measure(case, peers=True)
        clock = gpu()["sm_clock"]
        for row in rows:
            append(NAME, about | {"sm_clock": clock} | row, options.out)
        shown += noted(rows, reasons)
        done += 1
        torch.cuda.empty_cache()
    console.print(rich_table(shown, COLUMNS, TITLE))
    if done < len(wanted):
        console.print(f"{len(wanted) - done} cases were not timed, from {wanted[done].op} {wanted[done].label} on.")
    return 0


def found(options: Namespace, console: Console) -> tuple[Row, Limits]:
    """What every row says of the run, and the device's limits, measured now; both are printed."""
    about = environment() | gpu() | {"checks": options.checks}
    if options.commit:
        about["commit"] = options.commit
    limits = Limits.measure(Gpu())
    torch.cuda.empty_cache()  # of what was copied and multiplied
    console.print(f"{about['gpu']}, driver {about['driver']}, torch {about['torch']}, triton {about['triton']}")
    console.print(f"copy {limits.bytes_per_s / 1e12:.2f} TB/s, bf16 product {limits.flops_per_s / 1e12:.0f} TFLOP/s")
    return about, limits


def chosen(everything: Sequence[Case], ops: list[str] | None, shape: str | None) -> list[Case]:
    return [case for case in everything if case.timed and case.op in (ops or [case.op]) and (shape or "") in case.label]


def worst_first(wanted: Sequence[Case], rows: Sequence[Row]) -> list[Case]:
    """The cases of the ops in the newest waterfall, the op that loses most time to its limit first."""
    found = [row for row in rows if row.get("measure") == "waterfall" and row.get("op")]
    lost: dict[str, float] = {}
    for row in found:
        if row["time"] == found[-1]["time"]:
            lost[row["op"]] = lost.get(row["op"], 0.0) + row["microseconds"] - row["limit_microseconds"]
    return sorted((case for case in wanted if case.op in lost), key=lambda case: -lost[case.op])


def tiny_cases() -> list[Case]:
    return cases(TINY, ((1, 12), (2, 70)), few=(16,))


def dry_run(options: Namespace, console: Console, everything: Sequence[Case] | None = None) -> int:
    """Run the cases that the options ask for, of ``everything`` or all tiny ones; 1 if bytes are wrong."""
    wanted = chosen(tiny_cases() if everything is None else everything, options.op, options.shape)
    shown: list[Row] = []
    wrong = 0
    for case in wanted:
        bench = Bench(DryRun(), NO_LIMITS)
        with mock.patch.object(launch, "on_gpu", return_value=True), np.errstate(all="ignore"):
            shown += noted(*bench.measure(case, peers=True))
        if excess := case.bytes + case.uncounted - held(bench.device.first[0]):
            console.print(f"{case.op} {case.label}: {excess} more bytes stated than its tensors hold")
            wrong += 1
    console.print(rich_table(shown, COLUMNS, TITLE))
    console.print(f"{len(wanted)} cases ran, {wrong} of them with wrong bytes; nothing was timed and nothing written.")
    return 1 if wrong else 0
