"""SwiGLU on a merged projection: the first half of the last dimension gates the second.

    swiglu([gate, up]) = silu(gate) * up

Shapes: ``[..., 2 I]`` -> ``[..., I]``, same dtype. Shazeer 2020 (arXiv 2002.05202).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` in the dtype of the input."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
