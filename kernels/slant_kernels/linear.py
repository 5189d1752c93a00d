"""Linear layer without a bias: y = x W^T, with W dense, prepacked, int8 or packed.

Shapes: x ``[..., K]``, W ``[N, K]`` of the same dtype or packed for it -> ``[..., N]``.
"""

from torch import Tensor

from slant_kernels.int8 import Int8Matrix
from slant_kernels.packed import Packed
from slant_kernels.prepacked import Prepacked, multiply
from slant_kernels.quantized import QuantizedMatrix
from slant_kernels.quantized_linear import quantized_linear

Weight = Tensor | Prepacked | Int8Matrix | Packed


def linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float().unsqueeze(-2) * weight.float()).sum(-1)


def linear(x: Tensor, weight: Weight) -> Tensor:
    """``x W^T`` in the dtype of x.

    A packed W of one grid is multiplied as it is where that is faster; one of several is made dense first.
    """
    if isinstance(weight, Prepacked | Int8Matrix):
        return weight.multiply(x)
    if isinstance(weight, Tensor):
        return multiply(x, weight)
    (first, *others) = weight.parts
    if isinstance(first, QuantizedMatrix) and not others:
        return quantized_linear(x, first, weight.scratch.take())
    return multiply(x, weight.dense())
