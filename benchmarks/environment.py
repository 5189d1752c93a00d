"""What a measurement was made with: the fields that every row of a result file carries."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results")


def environment() -> dict[str, Any]:
    """Commit, versions, processor, threads and UTC time."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
    }


def append(name: str, row: dict[str, Any]) -> None:
    """Add one line to ``results/NAME.jsonl``; result files only ever grow."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def percentiles(values: list[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    ordered = torch.tensor(values, dtype=torch.float64)
    return {f"p{q}": round(float(ordered.quantile(q / 100)), 6) for q in (20, 50, 80)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
