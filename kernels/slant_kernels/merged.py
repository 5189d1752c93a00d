"""A matrix merged from parts that stay quantized: in panels, or dequantized into a scratch buffer when it is used.

A model merges the projections of one input into one matrix W ``[N, K]``, stacked by rows. Its parts may be quantized
with different bits and group sizes, or not at all where the recipe says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from slant_kernels.onednn import multiply
from slant_kernels.panels import PanelMatrix, can_pack, packed
from slant_kernels.quantized import QuantizedMatrix, dequantize
from slant_kernels.w4a8 import W4A8Matrix, w4a8_matrix

Part = QuantizedMatrix | Tensor


class Scratch:
    """A buffer for one dequantized matrix at a time, shared by all matrices of a model; as large as the largest."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._elements = 0
        self._memory: Tensor | None = None

    def reserve(self, elements: int) -> None:
        """Ask for at least ``elements``; they are allocated when the buffer is next taken."""
        self._elements = max(self._elements, elements)

    def take(self) -> Tensor:
        """The buffer, flat; it may be overwritten, so the matrix that was in it is gone."""
        if self._memory is None or len(self._memory) < self._elements:
            self._memory = None  # freed before the larger one is allocated
            self._memory = torch.empty(self._elements, dtype=self.dtype, device=self.device)
        return self._memory


@dataclass(frozen=True, eq=False)
class MergedMatrix:
    """W as parts stacked by rows: quantized, or dense in the dtype of the scratch."""

    parts: tuple[Part, ...]
    scratch: Scratch

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def dense(self) -> Tensor:
        """The whole matrix ``[N, K]``, dequantized into the scratch."""
        rows, columns = self.shape
        out = self.scratch.take()[: rows * columns].view(rows, columns)
        for part, place in zip(self.parts, out.split([part.shape[0] for part in self.parts]), strict=True):
            if isinstance(part, Tensor):
                place.copy_(part)
            else:
                dequantize(part, place.dtype, out=place)
        return out


@dataclass(frozen=True, eq=False)
class PanelStack:
    """W as parts stacked by rows, each multiplied as it is: in panels, or dense."""

    parts: tuple[PanelMatrix | W4A8Matrix | Tensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def multiply(self, x: Tensor) -> Tensor:
        """x ``[..., K]``, bf16 or fp32 -> ``x W^T`` ``[..., N]`` of its dtype."""
        rows = x.reshape(-1, x.shape[-1])
        out = rows.new_empty(len(rows), self.shape[0])
        for part, place in zip(self.parts, out.split([part.shape[0] for part in self.parts], dim=1), strict=True):
            if isinstance(part, Tensor):
                place.copy_(multiply(rows, part.to(rows.dtype)))
            else:
                part.multiply(rows, place)
        return out.view(*x.shape[:-1], -1)


def in_panels(parts: list[Part], dtype: torch.dtype, *, w4a8: bool = False) -> PanelMatrix | W4A8Matrix | PanelStack:
    """Stack parts by rows, on a CPU, to multiply x of ``dtype``; of the dense ones those in bf16 get into panels too.

    Neighbours of equal bits and group size become one part. w4a8: quantized ones multiply x in 8 bits; that is
    possible without panels, too.
    """
    stack = tuple(_multiplied(part, w4a8) for part in _merged(parts, dtype, torch.device("cpu")))
    (first, *others) = stack
    return PanelStack(stack) if others or isinstance(first, Tensor) else first


def _multiplied(part: Part, w4a8: bool) -> PanelMatrix | W4A8Matrix | Tensor:
    """A part as a product reads it."""
    if isinstance(part, QuantizedMatrix) and w4a8:
        return w4a8_matrix(part)
    if isinstance(part, Tensor) and (part.dtype == torch.float32 or not can_pack(part.device, part.shape[1])):
        return part
    return packed(part)


def merge(parts: list[Part], scratch: Scratch, device: torch.device) -> Tensor | MergedMatrix:
    """Stack parts by rows on ``device``; neighbours of equal bits and group size become one part.

    Returns a Tensor if no part is quantized. Dense parts get the dtype of the scratch; the scratch is on the device
    that will multiply.
    """
    merged = tuple(_merged(parts, scratch.dtype, device))
    if len(merged) == 1 and isinstance(merged[0], Tensor):
        return merged[0]
    matrix = MergedMatrix(merged, scratch)
    scratch.reserve(math.prod(matrix.shape))
    return matrix


def _merged(parts: list[Part], dtype: torch.dtype, device: torch.device) -> Iterator[Part]:
    """Neighbours of equal bits and group size, or dense neighbours, become one matrix."""
    for grid, run in groupby(parts, _grid):
        members = list(run)
        if grid is None:
            yield torch.cat([part.to(device, dtype) for part in members if isinstance(part, Tensor)])
        else:
            yield _stack([part for part in members if isinstance(part, QuantizedMatrix)], device)


def _grid(part: Part) -> tuple[int, int] | None:
    return None if isinstance(part, Tensor) else (part.bits, part.group_size)


def _stack(parts: list[QuantizedMatrix], device: torch.device) -> QuantizedMatrix:
    return replace(
        parts[0],
        codes=torch.cat([part.codes.to(device) for part in parts]),
        scales=torch.cat([part.scales.to(device) for part in parts], dim=1),
        zeros=torch.cat([part.zeros.to(device) for part in parts], dim=1),
        shape=(sum(part.shape[0] for part in parts), parts[0].shape[1]),
    )
