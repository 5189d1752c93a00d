"""RMSNorm in its two Qwen3.5 conventions.

    rms_norm(x)          = x / sqrt(mean(x^2) + eps) * (1 + weight)
    gated_rms_norm(x, z) = x / sqrt(mean(x^2) + eps) * weight * silu(z)

Shapes: x, z ``[..., D]``, weight fp32 ``[D]``. Statistics and products are fp32 whatever the dtype of x.
Zhang and Sennrich 2019 (arXiv 1910.07467); the conventions are those of transformers' Qwen3_5RMSNorm and
Qwen3_5RMSNormGated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + weight.float())


def gated_rms_norm_reference(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, z = x.float(), z.float()
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.float() * z * torch.sigmoid(z)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension; the result has the dtype of x."""
    return F.rms_norm(x.float(), weight.shape, 1 + weight, eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream, then normalise: ``(rms_norm(x + residual), x + residual)``, both of x's dtype.

    Without a residual the stream starts with x.
    """
    stream = x if residual is None else residual + x
    return rms_norm(stream, weight, eps), stream


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x, then multiply by weight and silu(z); the result has the dtype of z."""
    return (F.rms_norm(x.float(), weight.shape, weight, eps) * F.silu(z.float())).to(z.dtype)
