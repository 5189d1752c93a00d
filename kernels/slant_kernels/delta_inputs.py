"""What stands between the DeltaNet projections and the recurrence, in one op.

    c_t     = silu(sum_j taps[:, j] mixed_{t - W + 1 + j})      causal depthwise convolution of width W = 4
    q, k, v = c split;  q, k <- x / sqrt(|x|^2 + 1e-6) per head;  q <- q / sqrt(K)
    g       = -exp(A_log) softplus(a + dt_bias);  beta = sigmoid(b)

Shapes: mixed ``[B, T, C]`` with C = 2 H K + Hv V; a, b ``[B, T, Hv]``; taps fp32 ``[W, C]``; A_log, dt_bias fp32
``[Hv]``; initial ``[1 or B, W - 1, C]`` holds the inputs before the first, zeros if None. Returns fp32 q, k
``[B, T, H, K]``, v ``[B, T, Hv, V]``, g and beta ``[B, T, Hv]``. Yang et al. 2024 (arXiv 2412.06464), in
the form of transformers' Qwen3_5GatedDeltaNet.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

L2_EPS = 1e-6


class DeltaInputs(NamedTuple):
    """The recurrence's inputs: q and k normalised, q scaled, g = log decay <= 0, beta in (0, 1)."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor


def delta_inputs_reference(
    mixed: Tensor,
    a: Tensor,
    b: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    key_heads: int,
    key_dim: int,
    initial: Tensor | None = None,
) -> DeltaInputs:
    B, T, C = mixed.shape
    W, width = len(taps), key_heads * key_dim
    x = torch.zeros(B, W - 1 + T, C)
    x[:, W - 1 :] = mixed
    if initial is not None:
        x[:, : W - 1] = initial
    c = torch.empty(B, T, C)
    for t in range(T):
        c[:, t] = (x[:, t : t + W] * taps).sum(1)
    c = c / (1 + torch.exp(-c))
    q, k = (part.unflatten(2, (key_heads, key_dim)) for part in (c[..., :width], c[..., width : 2 * width]))
    q, k = (part / (part.square().sum(-1, keepdim=True) + L2_EPS).sqrt() for part in (q, k))
    v = c[..., 2 * width :].unflatten(2, (a.shape[2], -1))
    g = -A_log.exp() * torch.log1p(torch.exp(a.float() + dt_bias))
    return DeltaInputs(q / key_dim**0.5, k, v, g, 1 / (1 + torch.exp(-b.float())))


def delta_inputs(
    mixed: Tensor,
    a: Tensor,
    b: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    key_heads: int,
    key_dim: int,
    initial: Tensor | None = None,
) -> DeltaInputs:
    """Convolve, split, normalise, and form the gates."""
    B, T, _ = mixed.shape
    W, width = len(taps), key_heads * key_dim
    before = mixed.new_zeros(1, W - 1, 1) if initial is None else initial.to(mixed.dtype)
    x = torch.cat([before.expand(B, -1, mixed.shape[2]), mixed], dim=1).float()
    # Shifted multiply-adds: torch's depthwise convolution wants channels first and takes four times as long on a CPU.
    c = x[:, :T] * taps[0]
    for j in range(1, W):
        c = torch.addcmul(c, x[:, j : j + T], taps[j])
    c = F.silu(c)
    qk = c[..., : 2 * width].unflatten(2, (2, key_heads, key_dim))
    scale = qk.new_tensor([key_dim**-0.5, 1.0])[:, None, None]
    q, k = (qk * (torch.rsqrt(qk.square().sum(-1, keepdim=True) + L2_EPS) * scale)).unbind(2)
    v = c[..., 2 * width :].unflatten(2, (a.shape[2], -1))
    g = -A_log.exp() * F.softplus(a.float() + dt_bias)
    return DeltaInputs(q, k, v, g, torch.sigmoid(b.float()))
