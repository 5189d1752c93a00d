"""How long a new process takes to its first answer on the demo checkpoint, in parts; prints one JSON object.

``suite`` runs it as ``python cold_start.py DEVICE STARTED``: with an empty folder for compiled kernels, with the folder
that the first run filled, and with one compiled ahead of time. Whether files come from a disk or a cache is not
controlled. In seconds:

    import     the interpreter, torch and slant
    device     the device's context and its first tensor
    load       Engine.load: tokenizer, checkpoint, weights on the device, the state after the prefix
    compile    the first text, with every kernel and handle that is needed the first time
    capture    Engine.warmup: recording the shapes that are replayed
    answer     the text again
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("import", "device", "load", "compile", "capture", "answer")


def suite(
    place: str, runs: tuple[str, ...] = ("compiled", "cached"), ahead: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each run, and one with the kernels in ``ahead``; RuntimeError if one fails."""
    paths = [str(ROOT / folder) for folder in ("engine", "kernels", "benchmarks")]
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
        folders = dict.fromkeys(runs, cache) | ({"ahead of time": str(ahead)} if ahead else {})
        for kernels, folder in folders.items():
            environment["TRITON_CACHE_DIR"] = folder
            held = len(list(Path(folder).rglob("*.cubin")))
            command = [sys.executable, __file__, place, repr(time.time())]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if run.returncode:
                reason = (run.stderr.strip().splitlines() or [""])[-1]
                raise RuntimeError(f"a new process did not answer: {reason}")
            parts = json.loads(run.stdout.splitlines()[-1])
            yield {
                "kernels": kernels,
                "seconds": parts,
                "total_seconds": sum(parts.values()),
                "compiled": len(list(Path(folder).rglob("*.cubin"))) - held,
            }


def main(place: str, started: float) -> None:
    marks = [started]

    def mark() -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        marks.append(time.time())

    import torch

    from slant.demo import FOLDER, passages
    from slant.engine import Engine

    mark()
    torch.zeros(1, device=place)
    mark()
    engine = Engine.load(FOLDER, weights="bf16", device=place, max_tokens=1024)
    mark()
    text = passages()[0]["text"]
    for call in (lambda: engine.score(text), engine.warmup, lambda: engine.score(text)):
        call()
        mark()
    print(json.dumps({part: round(b - a, 4) for part, a, b in zip(PARTS, marks, marks[1:], strict=False)}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
