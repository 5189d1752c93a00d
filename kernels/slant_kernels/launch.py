"""Where an op runs, and with which configuration its kernel is launched.

CUDA tensors (ROCm's too) go through Triton, CPU tensors through torch or C++. Tensors on torch's ``meta`` device have
shapes and no data: a launch on them compiles the kernel for the active Triton driver's target and runs nothing. That is
how kernels are compiled ahead of time, for the GPU at hand or for one that is not.

Triton exists for Linux only; elsewhere ``jit`` returns the plain function, and the CPU path works without it.
"""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

if importlib.util.find_spec("triton") is not None:
    import triton
    import triton.language as tl

else:
    triton, tl = None, SimpleNamespace(constexpr=None)  # kernels annotate arguments with tl.constexpr

__all__ = [
    "H200",
    "Config",
    "Table",
    "cdiv",
    "followers",
    "jit",
    "launch",
    "on_gpu",
    "power_of_2",
    "target",
    "tl",
    "triton",
]


# What chose a row of a table, of the times in benchmarks/results/gpu_tune.jsonl.
H200 = "NVIDIA H200, torch 2.11.0+cu130, triton 3.6.0, 6cdc10b"


@dataclass(frozen=True)
class Config:
    """Block sizes (constexpr arguments of the kernel), warps and pipeline stages of a launch.

    ``registers`` is the most that a thread may take, so that more programs run at once; 0 leaves it to the compiler.
    ``measured`` names the GPU, versions and commit of the measurement that chose it; empty if it was not measured.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1
    measured: str = ""
    registers: int = 0


@dataclass(frozen=True)
class Table:
    """The committed configurations of one kernel, by shape class and target; target "" is the default."""

    rows: Mapping[tuple[str, str], Config]

    def find(self, device: torch.device, shape_class: str = "") -> Config:
        """The configuration for a device; raises KeyError for an unknown class."""
        row = self.rows.get((shape_class, target(device)))
        return self.rows[shape_class, ""] if row is None else row


def jit(*varying: str) -> Callable[[Any], Any]:
    """Decorates a kernel; ``varying`` names integers that differ from batch to batch.

    Triton specializes kernels for integers that are 1 or a multiple of 16; it does not for these.
    """
    return triton.jit(do_not_specialize=varying) if triton else lambda kernel: kernel


def on_gpu(x: Tensor) -> bool:
    """Whether an op on x runs its Triton kernel."""
    return x.device.type != "cpu"


def target(device: torch.device) -> str:
    """The processor a kernel for ``device`` is compiled for, like "sm_90" or "gfx942"; "cpu" in the interpreter."""
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda" and torch.version.hip is None:
        return _cuda_target(device)
    arch = triton.runtime.driver.active.get_current_target().arch
    return f"sm_{arch}" if isinstance(arch, int) else str(arch)


@cache
def _cuda_target(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)  # takes as long as a launch
    return f"sm_{major}{minor}"


followers: list[Callable[[Any], None]] = []
"""Called with the kernel of each launch on meta tensors, or None if a hook prevented compilation; see ``cross``."""


def launch(kernel: Any, grid: tuple[int, ...], config: Config, *args: Any, **constants: Any) -> None:
    """Run ``kernel`` over ``grid``; ``args`` starts with a tensor on the device to run on.

    Raises OSError if Triton's cache on disk is damaged.
    """
    # The default of fused multiply-adds differs between versions of Triton.
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
    if config.registers:
        options["maxnreg"] = config.registers
    device = args[0].device
    try:
        if device.type == "meta":
            compiled = kernel.warmup(*args, **constants, **config.blocks, **options, grid=grid)
            for follow in followers:
                follow(compiled)
        elif device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                kernel[grid](*args, **constants, **config.blocks, **options)
        else:
            kernel[grid](*args, **constants, **config.blocks, **options)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # Triton reads nothing else
        advice = (
            f"Triton's description of a compiled kernel in it is damaged ({error}); delete the folder and run again"
        )
        raise OSError(errno.EBADMSG, advice, str(triton.knobs.cache.dir)) from error


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The least power of two that is at least n: a block that covers a dimension."""
    return 1 << (n - 1).bit_length()
