"""Linear layer with int8 activations and weights, on a CPU: y = x W^T from exact sums of 8-bit products.

    x W^T = (x H) (W H / b)^T                    H: Hadamard matrices of size b along the diagonal, H H^T = b I
    (x H)[m, k] ~ (x8[m, k] - 128) x_scale[m]    x_scale = max |x H|[m] / 127          one a token
    (W H / b)[n, k] ~ w8[n, k] w_scale[n]        w_scale = max |W H|[n] / (127 b)      one an output channel

Quantization is that of ``fp8``, to integers and after a rotation: an outlier would make the scale of its whole token
coarse, and H spreads it over the b channels of its block (QuaRot: Ashkboos et al. 2024, arXiv 2404.00456). b is the
largest power of two that divides K, up to 4096: 512 or more in every Qwen3.5, so a mixer's output is spread across its
heads. x8 is uint8 because oneDNN's product is fast for unsigned by signed; signed by signed runs its
reference implementation, a thousand times slower.

The sums are integers, exact on every processor. Each is multiplied by w_scale, then by x_scale. oneDNN computes them
where there is VNNI, and ``int8.cpp`` elsewhere: without VNNI oneDNN adds pairs of products in int16, which overflows.
Where nothing is compiled torch does, in parts that fp32 holds exactly, and more slowly than it multiplies fp32.
"""

from dataclasses import dataclass
from functools import cache
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import cpu, native
from slant_kernels.panels import pack_codes

ZERO = 128  # the code of 0.0
LEAST = 1e-30  # the largest |x| of a row counts as this at least: a row of zeros has a scale
BLOCK = 4096  # the largest b
TILE = 128  # of int8.cpp: a multiple of its vectors' width on every processor
PANELS = 16  # that are packed at a time
EXACT = 1024  # sums of so many products of codes are below 2**24: exact in fp32


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """W ``[N, K]`` as int8 codes with scales fp32, one an output channel."""

    codes: Tensor
    scales: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return nbytes(self.shape)

    def multiply(self, x: Tensor) -> Tensor:
        """x ``[..., K]``, bf16 or fp32 -> ``x W^T`` ``[..., N]`` of its dtype."""
        x8, x_scale = quantize_rows(x)
        return self.product(x8, x_scale, x.dtype)

    def product(self, x8: Tensor, x_scale: Tensor, dtype: torch.dtype) -> Tensor:
        """``x W^T`` in ``dtype`` for rows as ``quantize_rows`` gives them; here by torch, of codes ``[N, K]``."""
        sums = torch.zeros(*x8.shape[:-1], self.shape[0], dtype=torch.int32, device=x8.device)
        for x, w in zip(x8.split(EXACT, -1), self.codes.split(EXACT, 1), strict=True):
            sums += F.linear(x.float() - ZERO, w.float()).int()
        return sums.float().mul_(self.scales).mul_(x_scale).to(dtype)


class OneDnnInt8Matrix(Int8Matrix):
    """The codes in oneDNN's layout."""

    def product(self, x8: Tensor, x_scale: Tensor, dtype: torch.dtype) -> Tensor:
        zeros = torch.zeros(self.shape[0], dtype=torch.int32, device="cpu")
        y = torch.ops.onednn.qlinear_pointwise(
            x8, 1.0, ZERO, self.codes, self.scales, zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return y.mul_(x_scale.to(dtype))


class PanelInt8Matrix(Int8Matrix):
    """The codes as words of ``panels``; K is padded to four, and N to whole panels."""

    def product(self, x8: Tensor, x_scale: Tensor, dtype: torch.dtype) -> Tensor:
        N, K = self.shape
        out = torch.empty(*x8.shape[:-1], N, dtype=dtype, device="cpu")
        if out.numel():
            PRODUCT((out, x8.contiguous(), x_scale, self.codes, self.scales), (x_scale.numel(), N, K))
        return out


PRODUCT = native.Op("int8_linear", "out x:uint8 x_scales:fp32 w:int32 w_scales:fp32 workspace", "rows N K")


def nbytes(shape: tuple[int, int]) -> int:
    """Bytes of a matrix ``[N, K]``."""
    return shape[0] * (shape[1] + 4)


def int8_matrix(weight: Tensor) -> Int8Matrix:
    """Quantize a dense matrix, for the fastest product there is."""
    (N, K), panel = weight.shape, native.panel()
    if panel is not None and not (cpu.has("avx512vnni") and torch.backends.mkldnn.is_available()):
        return _in_panels(weight, panel)
    signed, scales = _signed(weight)
    if panel is None:
        return Int8Matrix(signed, scales, (N, K))
    return OneDnnInt8Matrix(torch.ops.onednn.qlinear_prepack(signed, None), scales, (N, K))


def _signed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes ``[N, K]``, 0 for 0, and fp32 scales ``[N]``."""
    codes, scales = quantize_rows(weight)
    return codes.bitwise_xor_(ZERO).view(torch.int8), scales[:, 0] / block(weight.shape[1])  # less 128


def _in_panels(weight: Tensor, panel: int) -> PanelInt8Matrix:
    """Some panels at a time: whole matrices of codes, freed again, left gaps that took 1.5 GB in a model of 4B."""
    N, K = weight.shape
    words = torch.empty(-(-N // panel), -(-K // 4), panel, dtype=torch.int32, device="cpu")
    scales = torch.zeros(len(words) * panel, dtype=torch.float32, device="cpu")
    for first in range(0, len(words), PANELS):
        rows = slice(first * panel, min(N, (first + PANELS) * panel))
        codes, scales[rows] = _signed(weight[rows])
        pack_codes(F.pad(codes, (0, -K % 4)).view(torch.uint8), 8, panel, words[first : first + PANELS])
    return PanelInt8Matrix(words, scales, (N, K))


def block(columns: int) -> int:
    """b: a row of ``columns`` is rotated in blocks of this size."""
    return gcd(columns, BLOCK)


@cache
def hadamard(size: int) -> Tensor:
    """Sylvester's Hadamard matrix, fp32; ``size`` is a power of two."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float32, device="cpu")
    return torch.kron(torch.tensor([[1, 1], [1, -1]], dtype=torch.float32, device="cpu"), hadamard(size // 2))


def rotate(x: Tensor) -> Tensor:
    """``x H`` in fp32, x ``[..., K]``; Sylvester's matrix is the Kronecker product of two smaller ones."""
    inner = gcd(x.shape[-1], TILE)
    outer = block(x.shape[-1]) // inner
    y = x.float().unflatten(-1, (-1, outer, inner)) @ hadamard(inner)
    return (hadamard(outer) @ y if outer > 1 else y).flatten(-3)


NATIVE = native.Op("quantize_rows", "x codes:uint8 scales:fp32 workspace", "rows K block")


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x ``[..., K]`` -> uint8 codes of ``x H`` ``[..., K]``, 128 for 0, and their fp32 scales ``[..., 1]``."""
    if x.shape[-1] % TILE == 0 and native.supports(x):
        x = x.contiguous()
        codes, scales = torch.empty_like(x, dtype=torch.uint8), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        NATIVE((x, codes, scales), (scales.numel(), x.shape[-1], block(x.shape[-1])))
        return codes, scales
    rotated = rotate(x)
    largest = rotated.abs().amax(-1, keepdim=True).clamp_(min=LEAST)
    codes = torch.addcmul(rotated.new_tensor(ZERO + 0.5), rotated, 127 / largest)
    return codes.to(torch.uint8), largest / 127 + 0 * largest  # infinity as NaN
