"""Linear layer without a bias: y = x W^T, with W dense, in oneDNN's layout, int8, or merged from quantized parts.

Shapes: x ``[..., K]``, W ``[N, K]`` of the same dtype or made for it -> ``[..., N]``.
"""

from torch import Tensor

from slant_kernels.int8 import Int8Matrix
from slant_kernels.merged import MergedMatrix
from slant_kernels.onednn import OneDnnMatrix, multiply
from slant_kernels.quantized import QuantizedMatrix
from slant_kernels.quantized_linear import quantized_linear

Weight = Tensor | OneDnnMatrix | Int8Matrix | MergedMatrix


def linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float().unsqueeze(-2) * weight.float()).sum(-1)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """``x W^T`` in the dtype of x.

    A merged W of a single part is multiplied quantized where that is faster; others are dequantized first.
    """
    if isinstance(weight, OneDnnMatrix | Int8Matrix):
        return weight.multiply(x)
    if isinstance(weight, Tensor):
        return multiply(x, weight)
    (first, *others) = weight.parts
    if isinstance(first, QuantizedMatrix) and not others:
        return quantized_linear(x, first, weight.scratch.take())
    return multiply(x, weight.dense())
