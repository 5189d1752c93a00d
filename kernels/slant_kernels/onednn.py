"""A dense matrix in oneDNN's blocked layout, for products on a CPU.

A plain product reorders the weights into that layout at each call, which for a few tokens takes longer than the product
itself. The layout does not depend on the number of tokens, so it is made once.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class OneDnnMatrix:
    """W ``[N, K]``, fp32 or bf16; ``data`` is in a layout that only oneDNN knows."""

    data: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.data.dtype.itemsize

    def multiply(self, x: Tensor) -> Tensor:
        """x ``[..., K]`` of W's dtype -> ``x W^T`` ``[..., N]``."""
        return torch.ops.mkldnn._linear_pointwise(x, self.data, None, "none", [], "")


def can_reorder(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN multiplies matrices of this dtype here: with this build of torch, on this processor."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def reorder(weight: Tensor) -> OneDnnMatrix:
    """A copy of a plain matrix in oneDNN's layout; raises ValueError where ``can_reorder`` says no."""
    if not can_reorder(weight.dtype, weight.device):
        raise ValueError(f"oneDNN does not multiply {weight.dtype} on this {weight.device.type}; keep the matrix dense")
    return OneDnnMatrix(torch.ops.mkldnn._reorder_linear_weight(weight), (weight.shape[0], weight.shape[1]))


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` for a plain W, the same bits as for W reordered."""
    # For fp32 on a CPU torch uses another library, at 0.2 to 0.45 of oneDNN's rate and with other roundings.
    if x.dtype == torch.float32 and can_reorder(x.dtype, x.device):
        return reorder(weight).multiply(x)
    return F.linear(x, weight)
