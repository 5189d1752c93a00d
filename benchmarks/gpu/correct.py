"""Right or wrong: every op, the delta rule's configurations, large offsets, whole models and the tests, on a GPU.

    python benchmarks/gpu/correct.py --out DIR [--group ops] [--check swiglu] [--seconds 120] [--dry-run]

Each check is a row of DIR/gpu_correct.jsonl the moment it is done. Checks run in several processes at once, since
nothing is timed. A check that fails stops no other; a process that dies, as after an illegal address, is started again
after the check that it died of. What is not run when the time is over is named.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [str(ROOT / folder) for folder in ("engine", "kernels", "benchmarks", "tests")]
if __name__ == "__main__":
    sys.path[:1] = SOURCES  # in place of this folder, whose modules have the names of packages

import torch  # noqa: E402

from gpu.findings import Check, Place  # noqa: E402
from harness.rows import RESULTS, Row, append, environment, gpu  # noqa: E402

NAME = "gpu_correct"
MARK = "@row "
AT_ONCE = 12  # processes: compilation takes the time
MARGIN = 5.0  # seconds to end in


class Group(NamedTuple):
    """Checks, divided among ``processes``."""

    name: str
    processes: int = 1
    interpreted: bool = True  # in a dry run; the others run the torch path


GROUPS = (
    Group("ops", 2),
    Group("delta", 3),
    Group("linear", 3),
    Group("model", 2, interpreted=False),
    Group("large"),
    Group("tests", interpreted=False),
)


MODULES = {"linear": "ops"}
PRODUCTS = ("quantized_linear", "dequantize", "fp8_linear", "quantize_rows")


def checks(group: str, place: Place, seconds: float) -> list[Check]:
    """A group's checks; it alone is imported, so that none can stop another."""
    module = importlib.import_module(f"gpu.correct_{MODULES.get(group, group)}")
    found: list[Check] = module.checks(place, **({"seconds": seconds} if group == "tests" else {}))
    if group in ("ops", "linear"):
        return [check for check in found if (check.name in PRODUCTS) == (group == "linear")]
    return found


def divided(found: list[Check], group: str, index: int, count: int) -> list[Check]:
    """A process' share. What compiles the same kernels stays together: an op, or a matrix or configuration of one."""
    keys = [check.shape.split(",")[0] if group in ("linear", "delta") else check.name for check in found]
    order = list(dict.fromkeys(keys))
    return [check for check, key in zip(found, keys, strict=True) if order.index(key) % count == index]


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.worker is not None:
        return work(options)
    if not options.dry_run and not torch.cuda.is_available():
        print("No CUDA device is visible to torch: the checks need a GPU; --dry-run does without.")
        return 2
    about = environment() | ({"dry_run": True} if options.dry_run else gpu())
    about |= {"commit": options.commit} if options.commit else {}
    report = Report(about, options.out)
    end = time.monotonic() + max(2.0, options.seconds - MARGIN)
    usual = [group.name for group in GROUPS if not (options.dry_run and group.name == "tests")]
    wanted = [group for group in GROUPS if group.name in (options.group or usual)]
    parts = [
        Part(group, f"{index}/{count}", worker_command(group, index, count, options), report, end)
        for group in wanted
        for count in (1 if options.dry_run else group.processes,)
        for index in range(count)
    ]
    with ThreadPoolExecutor(2 if options.dry_run else AT_ONCE) as pool:
        list(pool.map(Part.follow, parts))
    return report.close()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--group", action="append", choices=[group.name for group in GROUPS], help="only these")
    parser.add_argument("--check", default="", help="only checks whose name and shape contain this text")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--commit", help="stands in the rows where git is not there to ask")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # the part of a group that this process does, like "0/2"
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def worker_command(group: Group, index: int, count: int, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "gpu.correct", "--worker", f"{index}/{count}", "--group", group.name]
    return [*command, "--check", options.check, *(["--dry-run"] if options.dry_run else [])]


@dataclass
class Report:
    """Takes rows from all processes: writes, prints and counts them."""

    about: Row
    out: Path
    right: int = 0
    wrong: int = 0
    missing: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, row: Row) -> None:
        with self.lock:
            append(NAME, self.about | row, self.out)
            self.right, self.wrong = self.right + row["right"], self.wrong + (not row["right"])
            name = f"{row['group']}: {row['check']}, {row['shape']}, {row['dtype']}"
            error, bound = (f"{row[part]:.2e}" if row[part] is not None else "-" for part in ("error", "bound"))
            print(f"{'right' if row['right'] else 'WRONG'} {name}: {error} of {bound} {row['note']}", flush=True)
            if row["failure"]:
                print(row["failure"], flush=True)

    def miss(self, *names: str) -> None:
        with self.lock:
            self.missing += names

    def close(self) -> int:
        for name in self.missing:
            print(f"Not run: {name}")
        print(f"{self.right} right, {self.wrong} wrong, {len(self.missing)} not run")
        return 1 if self.wrong or not self.right else 0


@dataclass
class Part:
    """One process' share of a group, started again after each check that it dies of."""

    group: Group
    share: str
    command: list[str]
    report: Report
    end: float
    planned: list[str] = field(default_factory=list)
    at: int = -1  # the check that is running, or ran last
    running: bool = False
    done: bool = False

    def follow(self) -> None:
        name = f"{self.group.name} {self.share}"
        while not self.done and (left := self.end - time.monotonic()) > 1:
            at, last_words = self.at, self.run(left)
            if self.done or self.end - time.monotonic() < 1:
                break
            if self.running:
                died = f"the process died in it\n{last_words}"
                self.report.take(row(self.group.name, self.planned[self.at], "", "", failure=died))
                self.running = False
            elif self.at == at:  # it did nothing, and would again
                self.report.take(row(self.group.name, name, "", "", failure=f"the process did not run\n{last_words}"))
                break
        rest = self.planned[self.at + (not self.running) :] if self.planned else [f"{name}, not started"]
        self.report.miss(*(() if self.done else (f"{self.group.name}: {check}" for check in rest)))

    def run(self, seconds: float) -> str:
        """One process to its end, or until the time is over; what it printed last."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])}
        if "--dry-run" in self.command and self.group.interpreted:
            environment["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
        else:
            environment.pop("TRITON_INTERPRET", None)
        environment |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # without it torch refuses to be deterministic
        command = [*self.command, "--first", str(self.at + 1), "--seconds", f"{seconds:.0f}"]
        with TemporaryFile("w+") as words:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": words, "text": True}
            process = subprocess.Popen(command, env=environment, process_group=0, cwd=ROOT, **pipes)
            timer = threading.Timer(seconds, end_group, (process.pid,))
            timer.start()
            for line in process.stdout or ():
                if line.startswith(MARK):
                    self.hear(json.loads(line.removeprefix(MARK)))
                else:
                    words.write(line)
            status = process.wait()
            timer.cancel()
            words.seek(0)
            lines = words.read().splitlines()[-15:]
        return "\n".join([f"exit status {status}", *lines])

    def hear(self, said: Row) -> None:
        if "planned" in said:
            self.planned = said["planned"]
        elif "begin" in said:
            self.at, self.running = said["begin"], True
        elif "finished" in said:
            self.running = False
        elif "missing" in said:
            self.report.miss(said["missing"])
        elif "end" in said:
            self.done = True
        else:
            self.report.take(said)


def end_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def work(options: argparse.Namespace) -> int:
    """A worker: says what it will do, then what it finds; status 3 if the GPU answers no more."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    index, count = map(int, options.worker.split("/"))
    place, (group,) = Place(options.dry_run), options.group
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if options.dry_run:
        torch.set_num_threads(1)
    found = [c for c in checks(group, place, options.seconds) if options.check in f"{c.name} {c.shape}"]
    found = divided(found, group, index, count)
    say({"planned": [f"{check.name}, {check.shape}" for check in found]})
    with place.interpreter():
        for number, check in list(enumerate(found))[options.first :]:
            say({"begin": number})
            for said in judged(group, check):
                say(said)
            say({"finished": number})
            if not alive(place):
                return 3
    say({"end": True})
    return 0


def end_with_parent() -> None:
    """The pipe from the parent ends when it is gone, however that came."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def say(what: Row) -> None:
    print(MARK + json.dumps(what), flush=True)


def judged(group: str, check: Check) -> Iterator[Row]:
    """The rows of a check; one that there is no memory for is missing, since other processes hold some."""
    began = time.perf_counter()
    try:
        for finding in check.run():
            name, seconds = finding.check or check.name, time.perf_counter() - began
            yield row(group, name, check.shape, check.dtype, finding.error, finding.bound, finding.note, seconds)
    except torch.OutOfMemoryError as error:
        yield {"missing": f"{group}: {check.name}, {check.shape}: {str(error).splitlines()[0][:200]}"}
    except Exception as error:
        lines = [line[:300] for line in traceback.format_exc().strip().splitlines()[-15:]]
        text = "\n".join([f"{type(error).__name__}: {str(error)[:1000]}", *lines])
        yield row(group, check.name, check.shape, check.dtype, seconds=time.perf_counter() - began, failure=text)


def row(
    group: str, name: str, shape: str, dtype: str, error: float | None = None, bound: float | None = None,
    note: str = "", seconds: float = 0.0, failure: str = "",
) -> Row:  # fmt: skip
    right = error is not None and bound is not None and error <= bound and not failure
    shown = error if error is not None and abs(error) < float("inf") else None  # JSON has no NaN
    about = {"group": group, "check": name, "shape": shape, "dtype": dtype, "error": shown, "bound": bound}
    note = note if shown == error else f"{note} error {error}".strip()
    return about | {"right": right, "seconds": round(seconds, 3), "note": note, "failure": failure}


def alive(place: Place) -> bool:
    """Whether the device still answers; what it cached is given back."""
    try:
        gc.collect()
        place.bench.free()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
