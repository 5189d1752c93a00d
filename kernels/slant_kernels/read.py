"""Tensors out of files into memory, on a CPU: read, converted and checked in one pass.

    out[i] = x[i], rounded to the dtype of out

Dtypes: x fp32 or bf16, as it lies in the file; out fp32 or bf16, or bf16 in the layout of ``panels``. A chunk is read
into the processor's cache, and converted and checked there, so that memory is written once and read never. The file is
not mapped: a mapped page costs a fault when it is first touched, counts as the process's memory, and ends the process
where the file was cut off. The threads share the chunks of all tensors of a call, which does not hold Python's lock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slant_kernels import native
from slant_kernels.panels import NUMBERS, STEP, PanelMatrix, pack_numbers

CHUNK = 1 << 16  # numbers: 256 KB of fp32, half of the smallest second-level cache in use
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
PANELS = 2
NATIVE = native.Op("read", "jobs:int64 state:int64", "count end chunk")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of ``dtype`` that begins at the byte ``start`` of a file, and the contiguous tensor to read it into."""

    file: Path
    start: int
    dtype: torch.dtype
    out: Tensor

    @property
    def count(self) -> int:
        """Numbers."""
        return self.out.numel()


@dataclass(frozen=True, eq=False)
class StoredRows:
    """As ``Stored``, for the rows of a matrix in panels, bf16, from ``row`` on, as many as ``rows``."""

    file: Path
    start: int
    dtype: torch.dtype
    out: PanelMatrix
    row: int
    rows: int

    @property
    def count(self) -> int:
        """Numbers."""
        return self.rows * self.out.shape[1]


def empty_panels(rows: int, columns: int) -> PanelMatrix:
    """A matrix in bf16 to be read, in panels of the library in use; the rows of its padding are 0."""
    panel = native.panel()
    assert panel is not None
    words = torch.empty(-(-rows // panel), columns // 2, panel, dtype=torch.int32, device="cpu")
    if rows % panel:
        words[-1] = 0
    return PanelMatrix(words, None, None, NUMBERS, STEP, (rows, columns))


def read_reference(one: Stored | StoredRows) -> bool:
    """Whether all values are finite as they are written; of panels all rows must be read."""
    content = one.file.read_bytes()[one.start : one.start + one.count * one.dtype.itemsize]
    x = torch.frombuffer(bytearray(content), dtype=one.dtype)
    if isinstance(one, StoredRows):
        panel = native.panel()
        assert panel is not None
        x = x.view(one.out.shape).bfloat16()
        one.out.words.copy_(pack_numbers(x, panel))
        return bool(x.isfinite().all())
    one.out.copy_(x.view(one.out.shape))
    return bool(one.out.isfinite().all())


def reads(dtype: torch.dtype) -> bool:
    """Whether there is a library, and it reads tensors of ``dtype``."""
    return dtype in DTYPES and native.level() is not None


def can_read(dtype: torch.dtype, out: Tensor) -> bool:
    """Whether a tensor of ``dtype`` can be read into ``out``."""
    return reads(dtype) and out.dtype in DTYPES and out.is_contiguous() and native.supports(out)


def read(wanted: Sequence[Stored | StoredRows]) -> list[bool]:
    """Read tensors, in torch's number of threads; of each whether it could be read, and is finite as it was written.

    Raises OSError if a file cannot be opened.
    """
    if not wanted:
        return []
    files: dict[Path, int] = {}
    try:
        jobs, chunks, most = [], 0, 0
        for one in wanted:
            if one.file not in files:
                files[one.file] = os.open(one.file, os.O_RDONLY | os.O_CLOEXEC)
            if isinstance(one, StoredRows):
                address, kind, row, columns = one.out.words.data_ptr(), PANELS, one.row, one.out.shape[1]
                chunk = _panel_rows(columns) * columns
            else:
                address, kind, row, columns, chunk = one.out.data_ptr(), DTYPES[one.out.dtype], 0, 1, CHUNK
            place = address, kind, one.count, row, columns
            jobs.append([files[one.file], one.start, DTYPES[one.dtype], *place, chunks, chunk, 0])
            chunks += -(-one.count // chunk)
            most = max(most, chunk)
        table, state = (
            torch.tensor(jobs, dtype=torch.int64, device="cpu"),
            torch.zeros(1, dtype=torch.int64, device="cpu"),
        )
        NATIVE((table, state), (len(jobs), chunks, most))
        return [status == 0 for status in table[:, -1].tolist()]
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _panel_rows(columns: int) -> int:
    """Rows a chunk: whole panels, so that no two threads write to one cache line."""
    panel = native.panel()
    assert panel is not None
    return max(CHUNK // columns // panel, 1) * panel
