"""Times every kernel and the whole model on this machine's GPU, after its tests pass there, against limits measured in
the same run.

    python benchmarks/gpu_suite.py                       tests, all parts; appends to results/gpu_*.jsonl
    python benchmarks/gpu_suite.py --part model          the whole model only: memory, latency, throughput, cold start
    python benchmarks/gpu_suite.py --part peers          the whole model beside transformers only
    python benchmarks/gpu_suite.py --op delta_rule       one op
    python benchmarks/gpu_suite.py --tune swiglu         search configurations of the op's kernels
    python benchmarks/gpu_suite.py --dry-run             no GPU: everything but the timing, at tiny sizes on the CPU

It takes the repository, torch, Triton and transformers; peers that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

# The repository need not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (str(ROOT / "engine"), str(ROOT / "kernels"))
WORKERS = 8
PARTS = {"kernels": 0.45, "model": 0.4, "peers": 0.15}  # of the time


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only these; may be repeated")
    parser.add_argument("--op", action="append", help="only these ops of the kernels; may be repeated")
    parser.add_argument("--shape", help="only cases whose shape contains this text")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.1, help="timed seconds a contender and case")
    parser.add_argument("--minutes", type=float, default=9, help="nothing new is started after so long")
    parser.add_argument("--skip-tests", action="store_true", help="time without the tests; every row says so")
    parser.add_argument("--tune", metavar="OP", help="search configurations instead")
    parser.add_argument("--results", type=Path, help="folder of the result files")
    parser.add_argument("--commit", help="stands in the rows where git is not there to ask")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(argv)
    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 150)
    some_kernels = options.op or options.shape or options.tune
    parts = options.part or (["kernels"] if some_kernels else list(PARTS))
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
        from gpu import kernels, model

        failed = kernels.dry_run(options, console) if "kernels" in parts else 0
        return failed or (model.dry_run(console, parts) if set(parts) - {"kernels"} else 0)
    if not torch.cuda.is_available():
        console.print("No CUDA device is visible to torch: the suite needs a GPU, and writes no figure without one.")
        return 2
    if options.skip_tests:
        console.print("Tests were skipped: the rows say so.")
    elif not passed(console):
        console.print("Nothing is timed on a red run.")
        return 1
    from gpu import kernels, model

    runs = {"kernels": kernels.run, "model": model.run, "peers": partial(model.run, part="peers")}
    end = started + 60 * options.minutes
    return max(runs[part](options, console, until) for part, until in turns(parts, end))


def turns(parts: Sequence[str], end: float) -> Iterator[tuple[str, float]]:
    """The parts in their order, each with the time at which it is to end: its share of what is left for it and the
    later ones, so that what one does not use is theirs."""
    shares = {part: share for part, share in PARTS.items() if part in parts}
    while shares:
        part, now = next(iter(shares)), time.monotonic()
        yield part, now + (end - now) * shares[part] / sum(shares.values())
        del shares[part]


def passed(console: Console) -> bool:
    """Whether the kernels' tests and those marked ``gpu`` pass on this GPU."""
    if importlib.util.find_spec("pytest") is None:
        console.print("pytest is not installed, so nothing says that the kernels are right here: install it, or give")
        console.print("--skip-tests to time them all the same.")
        return False
    workers = ["-n", str(min(WORKERS, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    # Options of the project's own configuration name plug-ins that may be missing.
    pytest = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", *workers]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])}
    environment.pop("TRITON_INTERPRET", None)
    tests = ROOT / "tests"
    # Only files with such tests: collecting the others takes packages that are not needed here.
    marked = [str(path) for path in sorted(tests.rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    for run in (["-m", "not slow", str(tests / "kernels")], ["-m", "gpu", str(tests / "gpu"), *marked]):
        if subprocess.run([*pytest, *run], cwd=ROOT, env=environment, check=False).returncode:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
