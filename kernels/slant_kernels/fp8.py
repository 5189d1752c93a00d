"""Linear layer with e4m3 activations and weights, on GPUs from sm_89 on: y = x W^T from products of 8-bit floats.

    x[m, k] ~ x8[m, k] * x_scale[m]     x_scale = max |x[m]| / 448     one a token
    W[n, k] ~ w8[n, k] * w_scale[n]     w_scale = max |W[n]| / 448     one an output channel
    y[m, n] = x_scale[m] * w_scale[n] * sum of x8[m] * w8[n]

Shapes: x ``[..., K]``, W and w8 ``[N, K]``, w_scale fp32 ``[N]`` -> y ``[..., N]`` in the dtype of x. The product is
torch's, which sums in fp32, applies both scales as it writes, and rounds to bf16 once. It takes K and N that are
multiples of 16; other matrices, and all on a CPU, are multiplied in fp32: the same numbers, for checks, and slowly.

What writes x for such a product alone can write it so: the kernels of norms, gates and SwiGLU end with ``store_row``,
and give the same bits as ``quantize_rows`` of their output.

Left out: the rotations of ``int8``. They keep an outlier from coarsening the scale of its whole token; a code of e4m3
has three bits behind its leading one down to a 28,672nd of the outlier. int8 on a GPU: its int32 sums have to be
written, read and scaled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, cdiv, jit, power_of_2, tl

E4M3 = torch.float8_e4m3fn
STEP = 1 / 448  # by the largest code; a factor, because torch divides by a number on a CPU only
LEAST = 1e-30  # the largest |x| of a row counts as this at least: a row of zeros has a scale
MULTIPLE = 16  # of K and N; rows are filled up to it, because cuBLASLt refuses some products of a single one


@dataclass(frozen=True, eq=False)
class Fp8Rows:
    """x ``[..., K]`` of ``shape`` and ``dtype`` as codes e4m3 ``[R, K]`` and scales fp32 ``[R, 1]``.

    R is the number of rows of x rounded up to a multiple of 16; nobody wrote what lies beyond them.
    """

    codes: Tensor
    scales: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    def split(self, rows: int) -> list["Fp8Rows"]:
        """Parts of so many rows, a multiple of 16, each of shape ``[rows, K]``; the last may have fewer."""
        counts = [min(rows, self.rows - start) for start in range(0, self.rows, rows)]
        parts = zip(self.codes.split(rows), self.scales.split(rows), counts, strict=True)
        return [Fp8Rows(codes, scales, (count, self.shape[-1]), self.dtype) for codes, scales, count in parts]


@dataclass(frozen=True, eq=False)
class Fp8Matrix:
    """W ``[N, K]`` as codes e4m3 ``[N, K]`` with scales fp32 ``[N]``."""

    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        return nbytes(self.shape)

    def multiply(self, x: Tensor | Fp8Rows) -> Tensor:
        """x ``[..., K]`` -> ``x W^T`` ``[..., N]`` of its dtype."""
        rows = x if isinstance(x, Fp8Rows) else quantize_rows(x)
        plain = self.codes.is_cpu or any(size % MULTIPLE for size in self.shape)
        y = self._plain(rows) if plain else self._scaled(rows)
        return y[: rows.rows].to(rows.dtype).view(*rows.shape[:-1], len(self.codes))

    def _scaled(self, x: Fp8Rows) -> Tensor:
        # With scales by rows it writes bf16 only.
        return torch._scaled_mm(x.codes, self.codes.T, x.scales, self.scales[None], out_dtype=torch.bfloat16)

    def _plain(self, x: Fp8Rows) -> Tensor:
        return (x.codes.float() @ self.codes.float().T).mul_(x.scales).mul_(self.scales)


def nbytes(shape: tuple[int, int]) -> int:
    """Bytes of a matrix ``[N, K]``."""
    return shape[0] * (shape[1] + 4)


def multiplies_fp8(target: str) -> bool:
    """Whether a ``launch.target`` has products of e4m3; "cpu" computes them in fp32."""
    return target == "cpu" or (target.startswith("sm_") and int(target.removeprefix("sm_")) >= 89)


def fp8_matrix(weight: Tensor) -> Fp8Matrix:
    """Quantize a dense matrix ``[N, K]``."""
    rows = quantize_rows(weight)
    return Fp8Matrix(rows.codes[: len(weight)], rows.scales[: len(weight), 0])


def quantize_rows_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """x ``[M, K]`` -> codes e4m3 ``[M, K]``, scales fp32 ``[M, 1]``."""
    x = x.float()
    scales = x.abs().amax(1, keepdim=True).clamp(min=LEAST) * STEP
    return (x * scales.reciprocal()).to(E4M3), scales


# A row of 2560 is 10 elements a thread, one of 9216 is 36; read once, held in registers.
ROW = Table({("", ""): Config(num_warps=8)})


@jit()
def store_row(p_codes, p_scale, y, mask):
    """One row of fp32 in a tile of any shape, 0 where mask is not, as codes and their scale: see the reference."""
    scale = tl.maximum(tl.max(tl.abs(y)), 1e-30) * (1 / 448)
    codes = y * tl.div_rn(1.0, scale)
    tl.store(p_codes, codes.to(p_codes.dtype.element_ty), mask=mask)
    tl.store(p_scale, scale)


@jit()
def _quantize_rows_kernel(p_x, p_codes, p_scales, K: tl.constexpr, BK: tl.constexpr):
    """One row."""
    i_row = tl.program_id(0).to(tl.int64)
    o_k = tl.arange(0, BK)
    x = tl.load(p_x + i_row * K + o_k, mask=o_k < K, other=0.0).to(tl.float32)
    store_row(p_codes + i_row * K + o_k, p_scales + i_row, x, o_k < K)


def quantize_rows(x: Tensor, out: Fp8Rows | None = None) -> Fp8Rows:
    """x ``[..., K]`` in 8 bits, written into ``out`` if that is given.

    A row with NaN or infinity in it makes its whole row of a product NaN.
    """
    K = x.shape[-1]
    rows = x.reshape(-1, K).contiguous()
    out = empty_rows(x.shape, x) if out is None else out
    if not launch.on_gpu(x):
        for place, part in zip((out.codes, out.scales), quantize_rows_reference(rows), strict=True):
            place[: len(rows)] = part
        return out
    launch.launch(
        _quantize_rows_kernel, (len(rows),), ROW.find(x.device), rows, out.codes, out.scales, K=K, BK=power_of_2(K)
    )
    return out


def empty_rows(shape: Sequence[int], like: Tensor) -> Fp8Rows:
    """Room for x of this shape, on the device of ``like`` and in place of its dtype."""
    R = cdiv(math.prod(shape[:-1]), MULTIPLE) * MULTIPLE
    codes = torch.empty(R, shape[-1], dtype=E4M3, device=like.device)
    return Fp8Rows(codes, torch.empty(R, 1, dtype=torch.float32, device=like.device), tuple(shape), like.dtype)
