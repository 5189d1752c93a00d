"""Linear layer with a quantized weight and 8-bit activations, on a CPU: y = x W^T from exact sums of products of codes.

W ``[N, K]`` is a matrix of ``quantized``, of any bits; x is rounded in the same groups g of k:

    x[m, k] ~ x8[m, k] x_scale[m, g]           x_scale = max |x[m, k in g]| / 127, x8 from -127 to 127
    y[m, n] = sum over g of x_scale[m, g] scale[n, g] (sum of code[n, k] x8[m, k] - zero'[n, g] sum of x8[m, k])

with zero' = zero + 2**(bits - 1), and sums in fp32 over the groups in their order. A row of y depends on that row of x
alone. An outlier coarsens its own group only, as in llama.cpp's Q8_0, so that no rotation is needed, and the codes are
those of an artifact. Shapes: x ``[..., K]`` bf16 or fp32 -> y ``[..., N]`` of its dtype.

Without a compiled library, or if K is not a multiple of 32, torch computes the formula on what the codes stand for, in
fp32 and more slowly than it multiplies fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import native
from slant_kernels.onednn import multiply
from slant_kernels.panels import PanelMatrix, can_pack, packed
from slant_kernels.quantized import GROUP_SIZES, QuantizedMatrix, dequantize

LEAST = 1e-30  # the largest |x| of a group counts as this at least: a group of zeros has a scale


class W4A8Panels(PanelMatrix):
    """W in panels of the library in use."""

    @property
    def op(self) -> native.Op:
        return NATIVE


NATIVE = native.Op("w4a8", "x words:int32 scales:fp16 zeros:fp16 out workspace", "M N K bits group x_row out_row")


@dataclass(frozen=True, eq=False)
class W4A8Matrix:
    """W as it was quantized, for torch."""

    matrix: QuantizedMatrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def multiply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x ``[..., K]``, bf16 or fp32 -> ``x W^T`` ``[..., N]`` of its dtype; into ``out`` if given."""
        codes, scales = quantize_groups(x, self.matrix.group_size)
        rounded = (codes * scales).flatten(-2)[..., : self.shape[1]]
        y = multiply(rounded, dequantize(self.matrix, torch.float32)).to(x.dtype)
        return y if out is None else out.copy_(y)


def workspace(rows: int, shape: tuple[int, int], dtype: torch.dtype, *, panels: bool) -> int:
    """Bytes that a product of so many rows works in, beside its output: in panels, or with torch."""
    N, K = shape
    if panels:
        return NATIVE.workspace(dtype, (rows, N, K, 4, min(GROUP_SIZES), K, N))
    return 4 * (2 * N * K + 2 * rows * K)  # the matrix, also in oneDNN's layout; codes, and x of them


def w4a8_matrix(matrix: QuantizedMatrix) -> W4A8Matrix | W4A8Panels:
    """A quantized matrix on the CPU, for the fastest product there is."""
    if can_pack(matrix.codes.device, matrix.shape[1]):
        return W4A8Panels(**vars(packed(matrix)))
    return W4A8Matrix(matrix)


def quantize_groups(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """x ``[..., K]`` -> codes ``[..., G, group_size]``, whole fp32 numbers, 0 beyond K; scales fp32 ``[..., G, 1]``."""
    groups = F.pad(x.float(), (0, -x.shape[-1] % group_size)).unflatten(-1, (-1, group_size))
    largest = groups.abs().amax(-1, keepdim=True).clamp_(min=LEAST)
    return (groups * (torch.full_like(largest, 127) / largest)).round_(), largest / 127 + 0 * largest  # infinity as NaN
