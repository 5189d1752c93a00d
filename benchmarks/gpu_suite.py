"""Asks a GPU, in the order of worth, what its limits are, whether the answers are right, how fast, and what to tune.

    python benchmarks/gpu_suite.py                                   all stages, in eight minutes
    python benchmarks/gpu_suite.py --stage correct                   one stage; may be repeated
    python benchmarks/gpu_suite.py --stage kernels --op delta_rule   one op beside its peers
    python benchmarks/gpu_suite.py --stage tune --op swiglu          search configurations of one op's kernels
    python benchmarks/gpu_suite.py --dry-run                         no GPU: all but the timing, tiny, on the CPU

Rows go to results/gpu_*.jsonl. Each stage is a process of its own with a time limit, so that none can stop or outlast
the others, and writes a row the moment it exists. It takes the repository, torch, Triton, transformers and pydantic;
peers that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# The repository need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

import torch
from rich.console import Console

from harness.rows import RESULTS, Row, read

ROOT = Path(__file__).resolve().parents[1]
SOURCES = tuple(str(ROOT / folder) for folder in ("engine", "kernels", "benchmarks"))
CHECKS = "gpu_correct.jsonl"
LEAST = 5.0  # seconds below which a stage is not started


class Stage(NamedTuple):
    """``seconds`` is the most it may take; the last stages take what is left."""

    name: str
    seconds: float


STAGES = (
    Stage("limits", 45),
    Stage("correct", 130),
    Stage("bf16", 60),
    Stage("fp8", 45),
    Stage("hqq4", 45),
    Stage("offload", 45),
    Stage("peers", 70),
    Stage("hqq8", 45),
    Stage("host-embedding", 25),
    Stage("start", 40),
    Stage("tune", 600),
    Stage("kernels", 600),
)
WAYS = {"bf16": "bf16", "fp8": "fp8", "hqq4": "hqq4", "hqq8": "hqq8", "host-embedding": "hqq4, host embedding"}
WAYS["offload"] = "hqq4, offload"
INTERPRETED = ("correct", "tune", "kernels")  # in a dry run; the stages of a model run the torch path


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.run:
        return run(options, console)
    if not options.dry_run and not torch.cuda.is_available():
        console.print("No CUDA device is visible to torch: the suite needs a GPU, and writes no figure without one.")
        return 2
    end = time.monotonic() + 60 * options.minutes
    failed, checks = [], "not run"
    for stage in (stage for stage in STAGES if stage.name in (options.stage or [stage.name])):
        left = end - time.monotonic()
        if left < LEAST:
            console.print(f"Not started, for want of time: {stage.name}.")
            continue
        console.rule(stage.name)
        known = len(read(options.out / CHECKS))
        status, took = start(stage, min(stage.seconds, left), options, checks)
        console.print(f"{stage.name}: {status} after {took:.0f} s")
        if status != "done":
            failed.append(stage.name)
        if stage.name == "correct":
            checks = summary(read(options.out / CHECKS)[known:])
    if failed:
        console.print(f"Not all right: {', '.join(failed)}.")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES], help="only these")
    parser.add_argument("--minutes", type=float, default=8, help="for all stages together")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--op", action="append", help="only these ops, of the stages tune and kernels")
    parser.add_argument("--shape", help="only cases whose shape contains this text, of the same stages")
    parser.add_argument("--seconds", type=float, default=0.05, help="timed seconds a contender and case")
    parser.add_argument("--compiled", type=Path, help="a folder of slant compile for the demo, for the stage start")
    parser.add_argument("--commit", help="stands in the rows where git is not there to ask")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--run", choices=[stage.name for stage in STAGES], help=argparse.SUPPRESS)
    parser.add_argument("--checks", default="not run", help=argparse.SUPPRESS)  # what the stage correct said
    return parser


def start(stage: Stage, seconds: float, options: argparse.Namespace, checks: str) -> tuple[str, float]:
    """Run a stage in a process: "done", "failed" or "ended", if its time was over; and the seconds it took."""
    command = [sys.executable, __file__, "--run", stage.name, "--minutes", str(seconds / 60), "--checks", checks]
    command += ["--out", str(options.out), "--seconds", str(options.seconds)]
    for name in ("shape", "compiled", "commit"):
        command += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    command += [part for op in options.op or () for part in ("--op", op)]
    command += ["--dry-run"] if options.dry_run else []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])
    if options.dry_run and stage.name in INTERPRETED:
        environment["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = "failed" if process.wait(seconds) else "done"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        process.wait()
        status = "ended"
    return status, time.monotonic() - began


def summary(rows: Sequence[Row]) -> str:
    """What the rows of the stage correct say: "all right", or how many are wrong; "not run" if it left none."""
    if not rows:
        return "not run"
    wrong = sum(not row["right"] for row in rows)
    return f"{wrong} wrong" if wrong else "all right"


def run(options: argparse.Namespace, console: Console) -> int:
    """One stage, in this process."""
    from gpu import kernels, model

    deadline = time.monotonic() + 60 * options.minutes - LEAST  # ends by itself, with its tables, before it is ended
    runs: dict[str, Callable[[], int]] = {
        "limits": lambda: model.limits(options, console),
        "correct": lambda: correct(options),
        "peers": lambda: model.peers(options, console, deadline),
        "start": lambda: model.start(options, console),
        "tune": lambda: kernels.run(options, console, deadline, tuned=True),
        "kernels": lambda: kernels.run(options, console, deadline),
    }
    return runs.get(options.run, lambda: model.run(options, console, deadline, WAYS[options.run]))()


def correct(options: argparse.Namespace) -> int:
    from gpu import correct as checks

    seconds = 60 * options.minutes - LEAST
    arguments = ["--out", str(options.out), "--seconds", str(seconds)]
    arguments += ["--commit", options.commit] if options.commit else []
    return checks.main([*arguments, *(["--dry-run"] if options.dry_run else [])])


if __name__ == "__main__":
    sys.exit(main())
