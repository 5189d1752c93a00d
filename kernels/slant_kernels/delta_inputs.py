"""From the DeltaNet projections to the inputs of the recurrence, in one op: convolution, norms, gates.

    c_t     = silu(sum_j conv_weight[:, j] mixed_{t - W + 1 + j})      causal depthwise convolution of width W = 4
    q, k, v = c split;  q, k <- x / sqrt(|x|^2 + 1e-6) per head;  q <- q / sqrt(K)
    g       = -exp(A_log) softplus(a + dt_bias);  beta = sigmoid(b)

Shapes: mixed ``[B, T, C]`` with C = 2 H K + Hv V; a, b ``[B, T, Hv]``; conv_weight fp32 ``[W, C]``; A_log, dt_bias fp32
``[Hv]``; initial ``[1 or B, W - 1, C]`` holds the inputs before the first, zeros if None. mixed, a and b may be slices
of wider projections. Returns q, k ``[B, T, H, K]``, v ``[B, T, Hv, V]``, fp32 g and beta ``[B, T, Hv]``. q, k and v
have mixed's dtype, arithmetic is fp32. Yang et al. 2024 (arXiv 2412.06464), in the form of transformers'
Qwen3_5GatedDeltaNet.

One launch: a program computes BT tokens of one head, so the norms need no second pass and only results are written. It
reads its tile W times, shifted; all reads but the first come from the cache. One more program a tile computes the
gates.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, cdiv, jit, power_of_2, tl

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
    conv_weight: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    key_heads: int,
    key_dim: int,
    initial: Tensor | None = None,
) -> DeltaInputs:
    B, T, C = mixed.shape
    W, width = len(conv_weight), key_heads * key_dim
    x = torch.zeros(B, W - 1 + T, C, dtype=torch.float32, device=mixed.device)
    x[:, W - 1 :] = mixed
    if initial is not None:
        x[:, : W - 1] = initial
    c = torch.empty(B, T, C, dtype=torch.float32, device=mixed.device)
    for t in range(T):
        c[:, t] = (x[:, t : t + W] * conv_weight).sum(1)
    c = c / (1 + torch.exp(-c))
    q, k = (part.unflatten(2, (key_heads, key_dim)) for part in (c[..., :width], c[..., width : 2 * width]))
    q, k = (part / (part.square().sum(-1, keepdim=True) + L2_EPS).sqrt() for part in (q, k))
    v = c[..., 2 * width :].unflatten(2, (a.shape[2], -1))
    g = -A_log.exp() * torch.log1p(torch.exp(a.float() + dt_bias))
    return DeltaInputs(q / key_dim**0.5, k, v, g, 1 / (1 + torch.exp(-b.float())))


# 32 tokens of a head of 128 are four reads of 16 bytes a thread and tap; the 3 tokens before them are a tenth more.
TILE = Table({("", ""): Config({"BT": 32}, num_warps=4)})


@jit()
def _softplus(x):
    """log(1 + exp(x)), in torch's form: x above 20. e / (u - 1) undoes the rounding of u = 1 + e in log(u)."""
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    exact = tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0))
    return tl.where(x > 20.0, x, tl.where(u == 1.0, e, exact))


@jit()
def _gates(
    p_a, p_b, p_A_log, p_dt_bias, p_g, p_beta, o_t, m_t,
    A: tl.constexpr, B: tl.constexpr, HV: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    o_h = tl.arange(0, BH)
    mask = m_t[:, None] & (o_h < HV)[None]
    a = tl.load(p_a + o_t[:, None] * A + o_h[None], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(p_b + o_t[:, None] * B + o_h[None], mask=mask, other=0.0).to(tl.float32)
    rate = tl.exp(tl.load(p_A_log + o_h, mask=o_h < HV, other=0.0))
    dt_bias = tl.load(p_dt_bias + o_h, mask=o_h < HV, other=0.0)
    o_g = o_t[:, None] * HV + o_h[None]
    tl.store(p_g + o_g, -rate[None] * _softplus(a + dt_bias[None]), mask=mask)
    tl.store(p_beta + o_g, tl.sigmoid(b), mask=mask)


@jit("T", "initial_rows")
def _delta_inputs_kernel(
    p_mixed, p_a, p_b, p_conv_weight, p_A_log, p_dt_bias, p_initial, p_c, p_g, p_beta, T, initial_rows, eps, scale,
    MIXED: tl.constexpr, A: tl.constexpr, B: tl.constexpr, W: tl.constexpr, H: tl.constexpr, HV: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr, INITIAL: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """BT tokens of one head, or of all gates; tokens of mixed, a, b lie MIXED, A, B elements apart."""
    i_h, i_t, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    C: tl.constexpr = 2 * H * K + HV * V
    i_row = i_b.to(tl.int64) * T
    o_t = i_t * BT + tl.arange(0, BT)
    if i_h == 2 * H + HV:
        _gates(p_a, p_b, p_A_log, p_dt_bias, p_g, p_beta, i_row + o_t, o_t < T, A, B, HV, BH)
    else:
        is_key = i_h < 2 * H
        o_d = tl.arange(0, BD)
        m_d = o_d < tl.where(is_key, K, V)
        o_c = tl.where(is_key, i_h * K, 2 * H * K + (i_h - 2 * H) * V) + o_d
        c = tl.zeros([BT, BD], tl.float32)
        for j in tl.static_range(W):
            o_x = o_t + (j - W + 1)
            p_x = p_mixed + (i_row + o_x)[:, None] * MIXED + o_c[None]
            mask = (o_x < T)[:, None] & m_d[None]
            if INITIAL:
                o_i = i_b * initial_rows * (W - 1) + o_x + (W - 1)
                p_x = tl.where((o_x < 0)[:, None], p_initial + o_i[:, None] * C + o_c[None], p_x)
            else:
                mask &= (o_x >= 0)[:, None]
            conv_weight = tl.load(p_conv_weight + j * C + o_c, mask=m_d, other=0.0)
            c += tl.load(p_x, mask=mask, other=0.0).to(tl.float32) * conv_weight[None]
        c *= tl.sigmoid(c)
        if is_key:
            c *= (tl.rsqrt(tl.sum(c * c, 1) + eps) * tl.where(i_h < H, scale, 1.0))[:, None]
        p_out = p_c + (i_row + o_t)[:, None] * C + o_c[None]
        tl.store(p_out, c.to(p_c.dtype.element_ty), mask=(o_t < T)[:, None] & m_d[None])


def delta_inputs(
    mixed: Tensor,
    a: Tensor,
    b: Tensor,
    conv_weight: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    key_heads: int,
    key_dim: int,
    initial: Tensor | None = None,
) -> DeltaInputs:
    """Convolve, split, normalise, and compute the gates."""
    if launch.on_gpu(mixed):
        return _delta_inputs(mixed, a, b, conv_weight, A_log, dt_bias, key_heads, key_dim, initial)
    B, W, width = len(mixed), len(conv_weight), key_heads * key_dim
    before = mixed.new_zeros(1, W - 1, 1) if initial is None else initial.to(mixed.dtype)
    x = torch.cat([before.expand(B, -1, mixed.shape[2]), mixed], dim=1).float()
    # As an image of height 1, whose channels may be last, as x lies in memory; conv1d wants channels first.
    c = F.conv2d(x.mT[:, :, None], conv_weight.T[:, None, None].contiguous(), groups=x.shape[2])[:, :, 0].mT
    c = F.silu(c, inplace=True)
    qk = c[..., : 2 * width].unflatten(2, (2, key_heads, key_dim))
    scale = qk.new_tensor([key_dim**-0.5, 1.0])[:, None, None]
    norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
    q, k = (qk * (torch.rsqrt(norm.square_().add_(L2_EPS)) * scale)).to(mixed.dtype).unbind(2)
    v = c[..., 2 * width :].unflatten(2, (a.shape[2], -1)).to(mixed.dtype)
    g = -A_log.exp() * F.softplus(a.float() + dt_bias)
    return DeltaInputs(q, k, v, g, torch.sigmoid(b.float()))


def _delta_inputs(
    mixed: Tensor, a: Tensor, b: Tensor, conv_weight: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int,
    initial: Tensor | None,
) -> DeltaInputs:  # fmt: skip
    mixed, a, b = even_tokens(mixed), even_tokens(a), even_tokens(b)
    B, T, C = mixed.shape
    Hv = a.shape[2]
    V = (C - 2 * H * K) // Hv
    config = TILE.find(mixed.device)
    before = mixed if initial is None else initial.to(mixed.dtype).contiguous()
    c = torch.empty(B, T, C, dtype=mixed.dtype, device=mixed.device)
    g, beta = (torch.empty(B, T, Hv, dtype=torch.float32, device=mixed.device) for _ in range(2))
    launch.launch(
        _delta_inputs_kernel, (2 * H + Hv + 1, cdiv(T, config.blocks["BT"]), B), config,
        mixed, a, b, conv_weight, A_log, dt_bias, before, c, g, beta, T, int(len(before) > 1), L2_EPS, K**-0.5,
        MIXED=mixed.stride(1), A=a.stride(1), B=b.stride(1), W=len(conv_weight), H=H, HV=Hv, K=K, V=V,
        BD=power_of_2(max(K, V)), BH=power_of_2(Hv), INITIAL=initial is not None,
    )  # fmt: skip
    q, k, v = c.split([H * K, H * K, Hv * V], dim=2)
    return DeltaInputs(q.unflatten(2, (H, K)), k.unflatten(2, (H, K)), v.unflatten(2, (Hv, V)), g, beta)


def even_tokens(x: Tensor) -> Tensor:
    """x ``[B, T, ...]`` with token t of row b at ``(b T + t) x.stride(1)``: itself if it can be, else a copy."""
    B, T = x.shape[:2]
    even = B == 1 or x.stride(0) == T * x.stride(1)
    whole = x[0, 0].is_contiguous() and x.stride(1) >= x[0, 0].numel()
    return x if even and whole else x.clone(memory_format=torch.contiguous_format)
