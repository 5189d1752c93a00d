"""Calls the CPU ops written in C++, if a library compiled for this processor lies beside the sources.

The C++ file of an op has the name of its Python file. ``build_native`` compiles them, as an installation from source
does if it finds a compiler; nothing is compiled at run time. SLANT_NATIVE=0 runs all ops on torch.
"""

import ctypes
import os
import platform
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from slant_kernels import build_native, cpu

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}


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
    """The library of an instruction set; calls into it release Python's lock."""
    return ctypes.CDLL(str(build_native.library(name)))


def panel() -> int | None:
    """The columns of a panel, as vectors.h says; None: the ops run on torch."""
    name = level()
    return None if name is None else int(library(name).slant_panel())


def supports_widths(*widths: int) -> bool:
    """Whether there is a library and it supports rows of these widths."""
    width = panel()
    return width is not None and not any(one % width for one in widths)


def supports(x: Tensor, *widths: int) -> bool:
    """Whether there is a library and it supports x's device and dtype, and rows of these widths."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and supports_widths(*widths)


class Op:
    """An op of the libraries, ``slant_NAME``, which takes one struct: pointers, integers, then doubles.

    A wrong pointer would corrupt memory, so each tensor is checked before its address is taken. ``tensors`` names them
    in the order of the struct: ``name:fp32`` and the like have that dtype of ``DTYPES``, all others the dtype of the
    first. An op whose last pointer is ``workspace`` gets memory from torch to work in.
    """

    def __init__(self, name: str, tensors: str, integers: str, doubles: str = "") -> None:
        self._symbol, pointers = f"slant_{name}", [declared.partition(":")[::2] for declared in tensors.split()]
        self._has_workspace = pointers[-1][0] == "workspace"
        self._tensors = [(name, DTYPES.get(dtype)) for name, dtype in pointers if name != "workspace"]
        kinds = (
            (ctypes.c_void_p, [name for name, _ in pointers]),
            (ctypes.c_int64, [*integers.split(), "is_bf16", "threads"]),
            (ctypes.c_double, doubles.split()),
        )
        fields = [(name, kind) for kind, names in kinds for name in names]
        self._struct = type("Arguments", (ctypes.Structure,), {"_fields_": fields})

    def workspace(self, dtype: torch.dtype, integers: Sequence[int]) -> int:
        """Bytes that the op works in, for a first tensor of this dtype."""
        pointers = (None,) * (len(self._tensors) + 1)
        return 4 * self._floats(self._struct(*pointers, *integers, dtype == torch.bfloat16, torch.get_num_threads()))

    def __call__(self, tensors: Sequence[Tensor | None], integers: Sequence[int], *doubles: float) -> None:
        """Run on torch's number of threads. None stands for a null pointer.

        Raises TypeError for a tensor of another dtype, not on the CPU, or whose last dimension is not contiguous.
        """
        name, first = level(), tensors[0]
        assert name is not None
        assert first is not None
        functions = library(name)
        pointers = [self._address(x, *named, first.dtype) for x, named in zip(tensors, self._tensors, strict=True)]
        if self._has_workspace:
            pointers.append(None)
        is_bf16, threads = first.dtype == torch.bfloat16, torch.get_num_threads()
        arguments = self._struct(*pointers, *integers, is_bf16, threads, *doubles)
        if self._has_workspace:
            workspace = torch.empty(self._floats(arguments), dtype=torch.float32, device="cpu")
            arguments.workspace = workspace.data_ptr()
        getattr(functions, self._symbol)(ctypes.byref(arguments))

    def _floats(self, arguments: ctypes.Structure) -> int:
        name = level()
        assert name is not None
        floats = getattr(library(name), f"{self._symbol}_floats")
        floats.restype = ctypes.c_int64
        return int(floats(ctypes.byref(arguments)))

    def _address(self, x: Tensor | None, name: str, dtype: torch.dtype | None, first: torch.dtype) -> int | None:
        if x is None:
            return None
        if not x.is_cpu or x.dtype != (dtype or first) or (x.stride(-1) != 1 and x.shape[-1] != 1):
            raise TypeError(
                f"{self._symbol}: {name} is {x.dtype} on {x.device} with strides {x.stride()},"
                f" not {dtype or first} on the CPU with a contiguous last dimension"
            )
        return x.data_ptr()
