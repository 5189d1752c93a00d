"""The CPU ops that are compiled ahead from C++, where a library for this processor lies beside the sources.

They stand beside their torch formulas as ``delta_net.cpp`` and ``attention.cpp``; ``build_native`` compiles them, which
an installation from source does if it finds a compiler. Nothing is compiled at run time. SLANT_NATIVE=0 keeps to torch.
"""

import ctypes
import os
import platform
from functools import cache

import torch
from torch import Tensor

from slant_kernels import build_native, cpu


@cache
def levels() -> tuple[str, ...]:
    """The instruction sets that this process may use and a library was compiled for, the fastest first."""
    compiled = build_native.LEVELS.get(platform.machine(), {})
    return tuple(name for name in compiled if cpu.has(name) and build_native.library(name).exists())


def level() -> str | None:
    """The instruction set of the library in use; None: the ops run on torch."""
    return next(iter(levels()), None) if os.environ.get("SLANT_NATIVE") != "0" else None


@cache
def library(name: str) -> ctypes.CDLL:
    """The library of a level; a call into it lets other Python threads run."""
    return ctypes.CDLL(str(build_native.library(name)))


def supports_widths(*widths: int) -> bool:
    """Whether there is a library, and it takes rows of these widths."""
    name = level()
    return name is not None and not any(width % library(name).slant_panel() for width in widths)


def supports(x: Tensor, *widths: int) -> bool:
    """Whether there is a library that takes tensors of x's device and dtype, and rows of these widths."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and supports_widths(*widths)


def struct(pointers: str, integers: str, doubles: str = "") -> type[ctypes.Structure]:
    """The arguments of an op as its C++ declares them: these, with ``is_bf16`` and ``threads`` behind the integers."""
    kinds = (ctypes.c_void_p, pointers), (ctypes.c_int64, f"{integers} is_bf16 threads"), (ctypes.c_double, doubles)
    fields = [(name, kind) for kind, names in kinds for name in names.split()]
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def call(op: str, arguments: ctypes.Structure) -> None:
    """Run an op on torch's number of threads, with memory from torch if it needs some to work in."""
    name = level()
    assert name is not None
    functions, arguments.threads = library(name), torch.get_num_threads()
    if hasattr(arguments, "workspace"):
        size = functions[f"slant_{op}_floats"]
        size.restype = ctypes.c_int64
        workspace = torch.empty(size(ctypes.byref(arguments)))
        arguments.workspace = workspace.data_ptr()
    functions[f"slant_{op}"](ctypes.byref(arguments))


def address(x: Tensor | None) -> int | None:
    """Of the first element; None stays None."""
    return None if x is None else x.data_ptr()
