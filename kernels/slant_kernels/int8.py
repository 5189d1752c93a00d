"""Linear layer on int8 activations and weights, on a CPU: y = x W^T from exact sums of 8-bit products.

    x[m, k] ~ (x8[m, k] - 128) x_scale[m]     x_scale = max |x[m]| / 127    one a token, measured as it comes
    W[n, k] ~ w8[n, k] w_scale[n]             w_scale = max |W[n]| / 127    one an output channel

The steps of ``eight_bit``. x8 is uint8 because oneDNN has a fast product for unsigned by signed; for signed by signed
it takes its reference implementation, a thousand times slower. The product writes the dtype of x, scaled by w_scale;
x_scale follows in place. Processors without VNNI are left out: they add pairs of products in int16, which overflows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slant_kernels import native
from slant_kernels.eight_bit import eight_bit_weights

ZERO = 128  # the code of 0.0
LEAST = 1e-30  # a row of zeros has a scale all the same


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """W ``[N, K]`` as codes in oneDNN's order, opaque to all else; scales fp32 and zeros (all 0) int32 ``[N]``."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return nbytes(self.shape)

    def multiply(self, x: Tensor) -> Tensor:
        """x ``[..., K]``, bf16 or fp32 -> ``x W^T`` ``[..., N]`` of its dtype."""
        x8, x_scale = quantize_tokens(x)
        y = torch.ops.onednn.qlinear_pointwise(
            x8, 1.0, ZERO, self.codes, self.scales, self.zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        return y.mul_(x_scale.to(x.dtype))


def nbytes(shape: tuple[int, int]) -> int:
    """Bytes of a matrix ``[N, K]``."""
    return shape[0] * (shape[1] + 8)


def can_multiply_int8(device: torch.device) -> bool:
    """Whether this build of torch and this processor have the product."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def int8_matrix(weight: Tensor) -> Int8Matrix:
    """Quantize a plain matrix."""
    codes, scales = eight_bit_weights(weight, torch.int8)
    N, K = weight.shape
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    return Int8Matrix(packed, scales, torch.zeros(N, dtype=torch.int32), (N, K))


Arguments = native.struct("x codes scales", "rows K")


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x ``[..., K]`` -> x8 uint8 ``[..., K]``, x_scale fp32 ``[..., 1]``."""
    if native.serves(x, x.shape[-1]):
        x = x.contiguous()
        codes, scales = torch.empty_like(x, dtype=torch.uint8), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        pointers = map(native.address, (x, codes, scales))
        native.call("quantize_tokens", Arguments(*pointers, scales.numel(), x.shape[-1], x.dtype == torch.bfloat16))
        return codes, scales
    largest = x.abs().amax(-1, keepdim=True).float().clamp_(min=LEAST)
    codes = torch.addcmul(x.new_tensor(ZERO + 0.5, dtype=torch.float32), x.float(), 127 / largest)
    return codes.to(torch.uint8), largest.div_(127)
