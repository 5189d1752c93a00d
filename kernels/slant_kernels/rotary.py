"""Between the attention projections and attention: q/k norm, partial rotary, the layout, and the output gate.

    norm_rotary: y = rms_norm(x) per head; the first R of its D dimensions are rotated by their position,
                 (y1, y2) -> (y1 cos - y2 sin, y2 cos + y1 sin) with y1, y2 the halves of those R
    gate_heads:  y * sigmoid(gate)

Shapes: x ``[B, T, H, D]`` -> ``[B, H, T, D]`` for attention, and back in ``gate_heads``; cos, sin fp32 ``[T, R / 2]``
or ``[B, T, R / 2]``. Su et al. 2021 (arXiv 2104.09864). With text alone Qwen's three position axes are equal, so
the plain form is exact.
"""

import torch
from torch import Tensor

from slant_kernels.norm import rms_norm, rms_norm_reference


def rotary_tables(positions: int, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32 ``[positions, rotary_dim / 2]``, of position * theta^(-2 i / rotary_dim)."""
    inverse = theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim)
    angle = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
    return angle.cos(), angle.sin()


def norm_rotary_reference(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    y = rms_norm_reference(x, weight, eps).transpose(1, 2)
    half = cos.shape[-1]
    # Each pair is a complex number, multiplied by e^(i angle).
    pairs = torch.complex(y[..., :half], y[..., half : 2 * half])
    pairs = pairs * torch.complex(cos.float(), sin.float()).view(-1, 1, *cos.shape[-2:])
    return torch.cat([pairs.real, pairs.imag, y[..., 2 * half :]], dim=-1)


def gate_heads_reference(x: Tensor, gate: Tensor) -> Tensor:
    return (x.float().transpose(1, 2) / (1 + torch.exp(-gate.float()))).flatten(2)


def norm_rotary(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Norm with (1 + weight), rotate, and put heads before positions; the dtype of x."""
    y = rms_norm(x.float(), weight, eps).transpose(1, 2)
    half = cos.shape[-1]
    cos, sin = (table.view(-1, 1, *table.shape[-2:]) for table in (cos, sin))
    y1, y2 = y[..., :half], y[..., half : 2 * half]
    return torch.cat([y1 * cos - y2 * sin, y2 * cos + y1 * sin, y[..., 2 * half :]], dim=-1).to(x.dtype)


def gate_heads(x: Tensor, gate: Tensor) -> Tensor:
    """x ``[B, H, T, D]`` times sigmoid of gate ``[B, T, H, D]`` -> ``[B, T, H D]``, the dtype of x."""
    return (x.transpose(1, 2) * torch.sigmoid(gate)).flatten(2)
