"""Grouped-query attention over a right-padded batch, without masks.

    causal_attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(D)) v_s
    last_attention:   the same for one query a row, over that row's first ``lengths[b]`` keys

Shapes: q ``[B, H, T, D]``, k and v ``[B, G, S, D]`` with H a multiple of G and S = P + T: the first P keys are a prefix
that every query sees. Right padding only follows a text, so causality alone keeps it out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    T, S = q.shape[2], k.shape[2]
    k, v = (x.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q.float() @ k.transpose(2, 3) / q.shape[3] ** 0.5
    later = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ v


def last_attention_reference(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    rows = [
        causal_attention_reference(q[b : b + 1], k[b : b + 1, :, :length], v[b : b + 1, :, :length])
        for b, length in enumerate(lengths.tolist())
    ]
    return torch.cat(rows)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``[B, H, T, D]`` of q's dtype."""
    prefix = k.shape[2] - q.shape[2]
    # Torch aligns causality at the first key; P empty queries in front cost P / S and spare the mask, which costs 5-9x.
    q = F.pad(q, (0, 0, prefix, 0))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[:, :, prefix:]


def last_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """q ``[B, H, 1, D]``, lengths ``[B]`` counting the prefix -> ``[B, H, 1, D]`` of q's dtype."""
    rows = [
        F.scaled_dot_product_attention(
            q[b : b + 1], k[b : b + 1, :, :length], v[b : b + 1, :, :length], enable_gqa=True
        )
        for b, length in enumerate(lengths.tolist())
    ]
    return torch.cat(rows)
