"""A dense matrix in the order in which oneDNN multiplies by it on a CPU.

A plain product puts the weights into that order anew at each call, which for a few tokens takes longer than the
product itself. The order does not depend on the number of tokens.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prepacked:
    """W ``[N, K]``, fp32 or bf16; ``data`` is opaque to all but oneDNN."""

    data: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.data.dtype.itemsize

    def multiply(self, x: Tensor) -> Tensor:
        """x ``[..., K]`` of W's dtype -> ``x W^T`` ``[..., N]``."""
        return torch.ops.mkldnn._linear_pointwise(x, self.data, None, "none", [], "")


def can_prepack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build of torch and this processor multiply prepacked matrices."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepack(weight: Tensor) -> Prepacked:
    """A copy of a plain matrix in oneDNN's order."""
    return Prepacked(torch.ops.mkldnn._reorder_linear_weight(weight), (weight.shape[0], weight.shape[1]))


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` for a plain W, the same bits as for W prepacked."""
    # torch multiplies fp32 on a CPU by another library, at 0.2 to 0.45 of oneDNN's rate and with other roundings.
    if x.dtype == torch.float32 and can_prepack(x.dtype, x.device):
        return prepack(weight).multiply(x)
    return F.linear(x, weight)
