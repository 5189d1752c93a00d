"""Linear layer without a bias: y = x W^T, with W dense, in oneDNN's layout or panels, in 8 bits, or merged from parts.

Shapes: x ``[..., K]``, W ``[N, K]`` of the same dtype or made for it -> ``[..., N]``. A dense W in bf16 is widened for
x in fp32.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from slant_kernels import fp8, int8
from slant_kernels.fp8 import Fp8Matrix, Fp8Rows, fp8_matrix
from slant_kernels.int8 import Int8Matrix, int8_matrix
from slant_kernels.merged import MergedMatrix, PanelStack
from slant_kernels.onednn import OneDnnMatrix, multiply
from slant_kernels.panels import PanelMatrix
from slant_kernels.quantized import QuantizedMatrix
from slant_kernels.quantized_linear import quantized_linear
from slant_kernels.w4a8 import W4A8Matrix

Weight = Tensor | OneDnnMatrix | PanelMatrix | PanelStack | Int8Matrix | W4A8Matrix | Fp8Matrix | MergedMatrix


class EightBit(NamedTuple):
    """A way to multiply in 8 bits: what it makes of a dense matrix, and the bytes of that by (N, K)."""

    matrix: Callable[[Tensor], Weight]
    nbytes: Callable[[tuple[int, int]], int]


EIGHT_BIT = {"int8": EightBit(int8_matrix, int8.nbytes), "fp8": EightBit(fp8_matrix, fp8.nbytes)}


def linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float().unsqueeze(-2) * weight.float()).sum(-1)


def linear(x: Tensor | Fp8Rows, weight: Weight) -> Tensor:
    """``x W^T`` in the dtype of x; rows in fp8 are for a W in fp8, else it is a TypeError.

    A merged W of a single part is multiplied quantized where that is faster; others are dequantized first.
    """
    if isinstance(weight, Fp8Matrix):
        return weight.multiply(x)
    if isinstance(x, Fp8Rows):
        raise TypeError(f"rows in fp8 are multiplied by a matrix in fp8, not by a {type(weight).__name__}")
    if isinstance(weight, OneDnnMatrix | PanelMatrix | PanelStack | Int8Matrix | W4A8Matrix):
        return weight.multiply(x)
    if isinstance(weight, Tensor):
        return multiply(x, weight.to(x.dtype))
    (first, *others) = weight.parts
    if isinstance(first, QuantizedMatrix) and not others:
        return quantized_linear(x, first, weight.scratch.take())
    return multiply(x, weight.dense())


def unpacked(weight: Weight) -> Weight:
    """``weight`` for several products: a merged one is dequantized, and in its scratch until that is taken again."""
    return weight.dense() if isinstance(weight, MergedMatrix) else weight
