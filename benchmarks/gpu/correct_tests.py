"""The kernels' tests and those marked ``gpu``, as pytest judges them on this GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpu.findings import Check, Finding, Place

TESTS = Path(__file__).resolve().parents[2] / "tests"
WORKERS = 6
LEAST = 8.0  # seconds before the end at which pytest is asked to sum up
FAILED = re.compile(r"(?:FAILED|ERROR) (\S.*?)(?: - (.*))?$")


def checks(place: Place, seconds: float) -> list[Check]:
    if place.dry:
        runs = {"tests/kernels": [str(TESTS / "kernels" / "test_swiglu.py")]}
    else:
        marked = [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
        # Only files with such tests: collecting the others takes packages that are not needed here.
        on_gpu = dict.fromkeys([str(TESTS / "gpu"), *map(str, marked)])
        runs = {"tests/kernels": ["-m", "not slow", str(TESTS / "kernels")], "tests on a GPU": ["-m", "gpu", *on_gpu]}
    return [Check(name, "", "", partial(run, arguments, seconds)) for name, arguments in runs.items()]


def run(arguments: list[str], seconds: float) -> Iterator[Finding]:
    """One for each test that failed, and one for all."""
    xdist = importlib.util.find_spec("xdist") is not None and len(arguments) > 1
    # Options of the project's own configuration name plug-ins that may be missing.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", "-rfE", "--tb=short"]
    command += ["-n", str(min(WORKERS, os.cpu_count() or 1))] if xdist else []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    with subprocess.Popen([*command, *arguments], cwd=TESTS.parent, text=True, **pipes) as process:  # type: ignore[call-overload]
        timer = threading.Timer(max(1.0, seconds - LEAST), process.send_signal, (signal.SIGINT,))
        timer.start()
        lines = process.stdout.read().splitlines()
        timer.cancel()
    failed = [found for line in lines if (found := FAILED.match(line))]
    for found in failed:
        yield Finding(1.0, 0.0, (found[2] or "")[:300], found[1])
    wrong = process.returncode not in (0, 5)  # 5: no test is chosen
    yield Finding(float(wrong), 0.0, " ".join(lines[-1:] if failed or not wrong else lines[-8:])[:1000])
