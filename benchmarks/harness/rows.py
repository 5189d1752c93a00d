"""Result files: one JSON object a line, only ever appended to, each with what it was measured with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slant.bench.machine import machine
from slant_kernels.cpu import instruction_set

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results"
Row = dict[str, Any]


def environment() -> Row:
    """UTC time, commit, what ``machine`` reports (versions, processor, threads), and the instruction set in use."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output(["git", "describe", "--always", "--dirty"], BENCHMARKS) or "unknown",
        "transformers": version("transformers"),
        **machine(),
        "instructions": instruction_set(),
    }


def gpu() -> Row:
    """The first CUDA device; clocks in MHz at this moment, None where nvidia-smi does not report them."""
    device = torch.cuda.get_device_properties(0)
    query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,temperature.gpu"
    smi = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id=GPU-{device.uuid}"]
    values = [value.strip() for value in _output(smi).split(",")]
    names = ("driver", "sm_clock", "sm_clock_max", "memory_clock", "memory_clock_max", "power_limit_w", "celsius")
    return {
        "gpu": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "l2_bytes": device.L2_cache_size,
        "cuda": torch.version.cuda or torch.version.hip,
        **dict(zip(names, values if len(values) == len(names) else [None] * len(names), strict=True)),
    }


def append(name: str, row: Row, folder: Path = RESULTS) -> None:
    """Add one line to ``NAME.jsonl`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a file, oldest first; none if it is not there. Raises ValueError for a line that is not JSON."""
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number} is not JSON; remove it.") from None
    return rows


def newest_run(rows: Sequence[Row], key: str, needed: str) -> list[Row]:
    """The rows of the newest run among whose rows is one with ``needed`` under a key; a run has one time."""
    time = next((row["time"] for row in reversed(rows) if row[key] == needed), None)
    return [row for row in rows if row["time"] == time]


def named(name: str, patterns: str) -> bool:
    """Whether a name is among patterns like "slant-*,llama-bf16-1"."""
    return any(fnmatch(name, pattern) for pattern in patterns.split(","))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    return {f"p{q}": round(float(np.percentile(values, q)), 6) for q in (20, 50, 80)}


def _output(command: list[str], folder: Path | None = None) -> str:
    """What a program printed; nothing if it is not installed or failed."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
