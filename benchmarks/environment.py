"""What a measurement was made with: the fields that every row of a result file carries."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from slant.bench.machine import machine

RESULTS = Path(__file__).with_name("results")


def environment() -> dict[str, Any]:
    """UTC time, commit, and what ``machine`` tells: versions, processor, threads."""
    root = Path(__file__).parent
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output(["git", "describe", "--always", "--dirty"], root) or "unknown",
        "transformers": version("transformers"),
        **machine(),
    }


def gpu() -> dict[str, Any]:
    """The first CUDA device as it was found; clocks in MHz at this moment, None where nvidia-smi does not tell."""
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


def append(name: str, row: dict[str, Any], folder: Path = RESULTS) -> None:
    """Add one line to ``NAME.jsonl`` in a folder; result files only ever grow."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def percentiles(values: list[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    ordered = torch.tensor(values, dtype=torch.float64)
    return {f"p{q}": round(float(ordered.quantile(q / 100)), 6) for q in (20, 50, 80)}


def _output(command: list[str], folder: Path | None = None) -> str:
    """What a program printed; nothing if it is not installed or failed."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
