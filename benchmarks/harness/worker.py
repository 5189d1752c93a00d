"""One system in a process of its own: loads its model once and answers requests, one JSON object a line.

    python benchmarks/harness/worker.py BACKEND OPTIONS

BACKEND is MODULE:FUNCTION. The function takes OPTIONS, a JSON object, and gives a function of (sequences or texts,
batch size) that returns one list of numbers a text; ``PACKAGES`` of the module says by function whose versions are
reported. The first line out says how loading went, each other one answers a request ``{"texts": [...], "batch": 8}``:

    {"load_s": 1.5, "rss": 1e9, "peak_rss": 2e9, "versions": {"torch": "2.13.0"}}
    {"seconds": 0.5, "answers": [[...], ...], "peak_rss": 2e9}       or    {"error": "..."}

Memory is in bytes, the peak that of the loading or of the request alone. The file imports nothing of the project, so
that any interpreter that has a system's package can run it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any


def main(backend: str, options: str) -> None:
    # What libraries print goes to stderr: stdout is for replies alone.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # In place of this file's folder, and last, that of its package.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parents[1])]
    start = time.perf_counter()
    try:
        name, _, function = backend.partition(":")
        module = import_module(name)
        score = getattr(module, function)(json.loads(options))
    except Exception as error:
        send(replies, {"error": sentence(error)})
        raise
    took, rss = time.perf_counter() - start, status("VmRSS")
    # The system's two counts are taken apart and may differ by some pages.
    peak = max((size for size in (status("VmHWM"), rss) if size is not None), default=None)
    loaded = {"load_s": took, "rss": rss, "peak_rss": peak}
    send(replies, loaded | {"versions": {name: installed(name) for name in module.PACKAGES[function]}})
    for line in sys.stdin:
        request = json.loads(line)
        forget_peak()
        start = time.perf_counter()
        try:
            answers = score(request["texts"], request["batch"])
        except Exception as error:
            send(replies, {"error": sentence(error)})
            continue
        seconds = time.perf_counter() - start
        send(replies, {"seconds": seconds, "answers": answers, "peak_rss": status("VmHWM")})


def send(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def sentence(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def status(name: str, file: str = "/proc/self/status") -> int | None:
    """Bytes of a memory field, of this process by default; None where there is no /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), None)


def forget_peak() -> None:
    """Let the peak start anew; without the permission for it, it stays the process's own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
