"""The machine and the versions of a measurement, and the memory of this process."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from slant import __version__
from slant_kernels import native
from slant_kernels.launch import triton


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, processor, CPU ops, torch's threads, and a CUDA device's name, memory and compute capability."""
    found = {
        "slant": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__ if triton else None,
        "tokenizers": version("tokenizers"),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "native": native.level(),
        "threads": torch.get_num_threads(),
    }
    if device is not None and device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found |= {"gpu": gpu.name, "compute_capability": f"{gpu.major}.{gpu.minor}"}
        found |= {"gpu_bytes": gpu.total_memory, "cuda": torch.version.cuda or torch.version.hip}
    return found


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident() -> int | None:
    """Resident bytes of this process; None without /proc."""
    return _status("VmRSS")


def peak(device: torch.device) -> int | None:
    """The most bytes so far, allocated by torch on a GPU or resident on a CPU; None there without /proc."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
