"""Damaged files without end: ``python tests/wild/fuzz.py manifest --minutes 60``.

Each case is made from its number alone: ``--first 1234 --cases 1`` is that one again, with its traceback. The cases run
in a child process that may use a gibibyte more than it has at its start, and half a minute for one case. A child that
crashes or hangs is a failure of the case it was at, and another child goes on with the next.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from importlib import import_module
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, TemporaryFile

TARGETS = {
    "config": "fuzz_models:config",
    "safetensors": "fuzz_models:safetensors",
    "manifest": "fuzz_models:Manifest",
    "tokenizer": "fuzz_models:TokenizerFile",
    "csv": "fuzz_tables:csv_table",
    "json": "fuzz_tables:json_table",
    "parquet": "fuzz_tables:parquet_table",
    "broken": "fuzz_broken:broken",
}
IMPORTS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "engine")]
ADDRESS_SPACE = 1 << 30
CASE_SECONDS = 30
FAILED = "failed"


def run(
    target: str, *, seconds: float, first: int = 0, cases: int | None = None, patience: int = CASE_SECONDS
) -> tuple[Counter[str], dict[str, str]]:
    """Try cases for so long, or so many. The count of each outcome, and by its last line the first of each failure."""
    outcomes: Counter[str] = Counter()
    failures: dict[str, str] = {}
    end = time.monotonic() + seconds
    last = None if cases is None else first + cases
    path = os.pathsep.join(filter(None, (*IMPORTS, *sys.path)))
    # Each thread of an engine would reserve an arena of addresses, which are limited here.
    environment = os.environ | {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "2"}
    while time.monotonic() < end and (last is None or first < last):
        options = {"first": first, "patience": patience, "minutes": (end - time.monotonic()) / 60}
        options |= {} if last is None else {"cases": last - first}
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, __file__, target, "--child", *words]
        with (
            TemporaryFile() as said,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment) as child,
        ):
            assert child.stdout
            at = None
            for line in child.stdout:
                at, outcome, details = json.loads(line)
                if outcome is not None:
                    outcomes[outcome] += 1
                if outcome == FAILED:
                    failures.setdefault(details.rstrip().rpartition("\n")[2], f"case {at}: {details}")
            said.seek(0)
            last_words = said.read().decode(errors="replace")[-3000:]
        if at is None:
            raise RuntimeError(f"the target {target} cannot be made: {last_words}")
        if child.returncode:
            ended = f"the process ended with {child.returncode}"
            failures.setdefault(ended, f"case {at}: {ended}: {last_words}")
            outcomes[FAILED] += 1
        first = at + 1
    return outcomes, failures


def _child(target: str, seconds: float, first: int, cases: int | None, patience: int) -> None:
    """Print [number, outcome, details] of each case, and before it [number, null, ""]."""
    report, end = os.fdopen(os.dup(1), "w"), time.monotonic() + seconds
    os.dup2(2, 1)  # whatever prints meanwhile does not get into the report
    with TemporaryDirectory() as folder:
        module, _, name = TARGETS[target].partition(":")
        check = getattr(import_module(module), name)(Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
        for number in count(first) if cases is None else range(first, first + cases):
            print(json.dumps([number, None, ""]), file=report, flush=True)
            faulthandler.dump_traceback_later(patience, exit=True)
            try:
                outcome, details = check(Random(number)), ""
            except BaseException:
                outcome, details = FAILED, traceback.format_exc(limit=-12)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps([number, outcome, details]), file=report, flush=True)
            if time.monotonic() > end:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--patience", type=int, default=CASE_SECONDS, help="seconds for one case")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return _child(given.target, given.minutes * 60, given.first, given.cases, given.patience)
    outcomes, failures = run(
        given.target, seconds=given.minutes * 60, first=given.first, cases=given.cases, patience=given.patience
    )
    print(*failures.values(), sep="\n")
    print(f"{given.target}: {outcomes.total()} cases:", ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
