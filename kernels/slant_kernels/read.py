"""Tensors out of files into memory, on a CPU: read, converted and checked in one pass.

    out[i] = x[i], rounded to the dtype of out

Dtypes: x fp32 or bf16, as it lies in the file; out fp32 or bf16. A chunk is read into the processor's cache, and
converted and checked there, so that memory is written once and read never. The file is not mapped: a mapped page costs
a fault when it is first touched, counts as the process's memory, and ends the process where the file was cut off.
The threads share the chunks of all tensors of a call, which does not hold Python's lock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slant_kernels import native

CHUNK = 1 << 16  # numbers: 256 KB of fp32, half of the smallest second-level cache in use
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
NATIVE = native.Op("read", "jobs:int64 state:int64", "count end chunk")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of ``dtype`` that begins at the byte ``start`` of a file, and the contiguous tensor to read it into."""

    file: Path
    start: int
    dtype: torch.dtype
    out: Tensor


def read_reference(one: Stored) -> bool:
    """Whether all values are finite in the dtype of ``out``."""
    content = one.file.read_bytes()[one.start : one.start + one.out.numel() * one.dtype.itemsize]
    one.out.copy_(torch.frombuffer(bytearray(content), dtype=one.dtype).view(one.out.shape))
    return bool(one.out.isfinite().all())


def can_read(dtype: torch.dtype, out: Tensor) -> bool:
    """Whether there is a library, and it reads a tensor of ``dtype`` into ``out``."""
    return dtype in DTYPES and out.dtype in DTYPES and out.is_contiguous() and native.supports(out)


def read(wanted: Sequence[Stored]) -> list[bool]:
    """Read tensors, in torch's number of threads; of each whether it could be read, and is finite as it was written.

    Raises OSError if a file cannot be opened.
    """
    if not wanted:
        return []
    files: dict[Path, int] = {}
    try:
        jobs, chunks = [], 0
        for one in wanted:
            if one.file not in files:
                files[one.file] = os.open(one.file, os.O_RDONLY | os.O_CLOEXEC)
            kinds = DTYPES[one.dtype], one.out.data_ptr(), DTYPES[one.out.dtype]
            jobs.append([files[one.file], one.start, *kinds, one.out.numel(), chunks, 0])
            chunks += -(-one.out.numel() // CHUNK)
        table, state = (
            torch.tensor(jobs, dtype=torch.int64, device="cpu"),
            torch.zeros(1, dtype=torch.int64, device="cpu"),
        )
        NATIVE((table, state), (len(jobs), chunks, CHUNK))
        return [status == 0 for status in table[:, -1].tolist()]
    finally:
        for descriptor in files.values():
            os.close(descriptor)
