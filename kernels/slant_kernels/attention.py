"""Grouped-query attention over a right-padded batch, without masks.

    causal_attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(D)) v_s
    last_attention:   the same for one query a row, over that row's first ``lengths[b]`` keys

Shapes: q ``[B, H, T, D]``, k and v ``[B, G, S, D]`` with H a multiple of G and S = P + T: the first P keys are a prefix
that every query sees. Right padding only follows a text, so causality alone keeps it out.

causal_attention is torch's on a GPU. From torch 2.11 on it runs cuDNN for heads of 256 on sm_90, where that is fastest
(cuDNN before 9.15.1 fails at lengths that are no multiple of 128, pytorch#169849, and is not used), and flash attention
on other GPUs from sm_80 on. On a CPU it is two products and a softmax for a block of queries, where all heads of a
group are rows of one product: in ``attention.cpp`` if ``native`` supports the shape, else in torch. Scores are fp32:
rounded to bf16 a score of 30 is off by up to 0.06, and its share by 6 %.

last_attention reads each key and value once. A program computes all heads of a group over a piece of the keys, without
matrix products, which a few queries would not fill. Pieces have one size whatever the batch, so a text's result does
not depend on the others; if there are several, a second small launch merges them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch, native
from slant_kernels.launch import H200, Config, Table, cdiv, jit, power_of_2, tl
from slant_kernels.onednn import multiply


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


LOG2_E = 1.4426950408889634
# A step of 32 keys is 32 KB for 8 warps, 8 loads of 16 bytes a thread. 8192 keys are 32 pieces, which with 4 groups is
# about a program for each of an H100's 132 processors.
PIECE = Table(
    {
        ("", ""): Config({"BS": 256, "BN": 4, "W": 8}, num_warps=8),
        ("", "sm_90"): Config({"BS": 128, "BN": 2, "W": 4}, num_warps=4, measured=H200),
        ("", "sm_100"): Config({"BS": 256, "BN": 2, "W": 8}, num_warps=8),  # four keys a warp spill two registers
    }
)
MERGE = Table({("", ""): Config({"BP": 32}, num_warps=4)})


@jit("S", "G")
def _last_attention_kernel(
    p_q, p_k, p_v, p_lengths, p_out, p_top, p_total, S, G, scale,
    N: tl.constexpr, BH: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, WHOLE: tl.constexpr,
    BS: tl.constexpr, BN: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """The N heads of one group over one piece of a text's keys: the answer if the piece is ``WHOLE``, else its share.

    All tiles are [head, warp, d], so that each of W warps keeps a softmax of its own over every W-th key, in registers:
    the loop has no barrier, and warps meet once after it. BN keys a warp are loaded at once.
    """
    i_s, i_g, i_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = i_s * BS
    end = tl.minimum(tl.load(p_lengths + i_b).to(tl.int32), start + BS)
    if start >= end:
        return
    i_bg = i_b.to(tl.int64) * G + i_g
    o_h, o_d = tl.arange(0, BH)[:, None, None], tl.arange(0, BD)[None, None]
    o_w = tl.arange(0, W)[None, :, None]
    m_q = (o_h < N) & (o_d < D)
    q = tl.load(p_q + (i_bg * N + o_h) * D + o_d, mask=m_q, other=0.0).to(tl.float32) * scale
    top = tl.full([BH, W, 1], -1e30, tl.float32)  # of no keys; infinities would differ by NaN
    total = tl.zeros([BH, W, 1], tl.float32)
    o = tl.zeros([BH, W, BD], tl.float32)
    for i_n in range(start, end, BN * W):
        scores: tl.tuple = ()
        values: tl.tuple = ()
        for i in tl.static_range(BN):
            o_n = i_n + i * W + o_w
            o_kv = (i_bg * S + o_n) * D + o_d
            m_kv = (o_n < end) & (o_d < D)
            k = tl.load(p_k + o_kv, mask=m_kv, other=0.0).to(tl.float32)
            values += (tl.load(p_v + o_kv, mask=m_kv, other=0.0),)
            scores += (tl.where(o_n < end, tl.sum(q * k, 2, keep_dims=True), float("-inf")),)
        higher = top
        for i in tl.static_range(BN):
            higher = tl.maximum(higher, scores[i])
        shrink = tl.exp2(top - higher)
        total *= shrink
        o *= shrink
        for i in tl.static_range(BN):
            p = tl.exp2(scores[i] - higher)
            total += p
            o += p * values[i].to(tl.float32)
        top = higher
    highest = tl.max(top, 1, keep_dims=True)
    share = tl.exp2(top - highest)
    total = tl.sum(total * share, 1, keep_dims=True)
    o = tl.sum(o * share, 1, keep_dims=True)
    if WHOLE:
        tl.store(p_out + (i_bg * N + o_h) * D + o_d, (o / total).to(p_out.dtype.element_ty), mask=m_q)
    else:
        o_r = (i_bg * N + o_h) * tl.num_programs(0) + i_s
        tl.store(p_top + o_r, highest, mask=o_h < N)
        tl.store(p_total + o_r, total, mask=o_h < N)
        tl.store(p_out + o_r * D + o_d, o, mask=m_q)


@jit("pieces")
def _merge_kernel(
    p_o, p_top, p_total, p_lengths, p_out, pieces,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """One head of one text: the weighted mean of its pieces."""
    i_bh = tl.program_id(0).to(tl.int64)
    used = tl.cdiv(tl.load(p_lengths + i_bh // H).to(tl.int32), BS)
    o_p, o_d = tl.arange(0, BP), tl.arange(0, BD)
    highest = -1e30
    for i_p in range(0, used, BP):
        top = tl.load(p_top + i_bh * pieces + i_p + o_p, mask=i_p + o_p < used, other=-1e30)
        highest = tl.maximum(highest, tl.max(top))
    total = 0.0
    o = tl.zeros([BD], tl.float32)
    for i_p in range(0, used, BP):
        o_r, m_p = i_bh * pieces + i_p + o_p, i_p + o_p < used
        share = tl.exp2(tl.load(p_top + o_r, mask=m_p, other=-1e30) - highest)
        total += tl.sum(share * tl.load(p_total + o_r, mask=m_p, other=0.0))
        mask = m_p[:, None] & (o_d < D)[None]
        o += tl.sum(share[:, None] * tl.load(p_o + o_r[:, None] * D + o_d[None], mask=mask, other=0.0), 0)
    tl.store(p_out + i_bh * D + o_d, (o / total).to(p_out.dtype.element_ty), mask=o_d < D)


NATIVE = native.Op(
    "attention",
    "q k v out workspace",
    "B H G T S D q_row q_head q_token k_row k_head k_token v_row v_head v_token out_row out_head out_token",
)
QUERIES = 64  # of each head, a block on a CPU
LONG = 4096  # keys from which oneDNN makes scores faster than torch's batched product, up to 1.8 times


def causal_attention(q: Tensor, k: Tensor, v: Tensor, before: int = 0) -> Tensor:
    """``[B, H, T, D]`` of q's dtype, for q ``[B, H, before + T, D]`` with a row for each key.

    Torch aligns causality at the first key. So after a prefix, ``before`` rows of any values precede the queries: on a
    GPU they cost P / S of the time, where a mask would cost 5-9x.
    """
    assert q.shape[2] == k.shape[2]
    if not launch.on_gpu(q):
        attention = _native_attention if native.supports(q, q.shape[3]) else _blocked_attention
        return attention(q[:, :, before:], k, v)
    if q.dtype == torch.float32 or launch.target(q.device) == "sm_75":
        # Neither cuDNN nor flash attention supports these, and the only other kernel that stores no scores needs k and
        # v for every head.
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])[:, :, before:]


def _native_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    o = q.new_empty(B, T, H, D).transpose(1, 2)  # as the next op reads it
    strides = (stride for x in (q, k, v, o) for stride in x.stride()[:3])
    NATIVE((q, k, v, o), (B, H, G, T, S, D, *strides))
    return o


def _blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    o, keys = torch.empty_like(q), k.float() * D**-0.5
    for start in range(0, T, QUERIES):
        stop = min(start + QUERIES, T)
        seen = S - T + stop
        block = q[:, :, start:stop].float().unflatten(1, (G, -1)).flatten(2, 3)
        scores = _scores(block, keys[:, :, :seen]).unflatten(2, (-1, stop - start))
        later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu(1)
        scores[..., S - T + start :].masked_fill_(later, float("-inf"))
        shares = scores.softmax(-1).to(v.dtype).flatten(2, 3)
        o[:, :, start:stop] = (shares @ v[:, :, :seen]).view(B, H, stop - start, D)
    return o


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """q ``[B, G, M, D]``, k ``[B, G, S, D]`` -> ``q k^T`` ``[B, G, M, S]``."""
    if k.shape[2] < LONG:
        return q @ k.mT
    pairs = zip(q.flatten(0, 1), k.flatten(0, 1), strict=True)
    return torch.stack([multiply(rows, keys) for rows, keys in pairs]).unflatten(0, q.shape[:2])


def last_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """q ``[B, H, 1, D]``, lengths ``[B]`` counting the prefix, at least 1 -> ``[B, H, 1, D]`` of q's dtype."""
    if launch.on_gpu(q):
        return _last_attention(*(x.contiguous() for x in (q, k, v, lengths)))
    rows = [
        F.scaled_dot_product_attention(
            q[b : b + 1], k[b : b + 1, :, :length], v[b : b + 1, :, :length], enable_gqa=True
        )
        for b, length in enumerate(lengths.tolist())
    ]
    return torch.cat(rows)


def _last_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    (B, H, _, D), (G, S), config = q.shape, k.shape[1:3], PIECE.find(q.device)
    N, BS, BD = H // G, config.blocks["BS"], power_of_2(D)
    out, pieces = torch.empty_like(q), cdiv(S, BS)
    o, top, total = out, lengths, lengths  # one piece stores no shares
    if pieces > 1:
        o = torch.empty(B, H, pieces, D, dtype=torch.float32, device=q.device)
        top, total = (torch.empty(B, H, pieces, dtype=torch.float32, device=q.device) for _ in range(2))
    launch.launch(
        _last_attention_kernel, (pieces, G, B), config,
        q, k, v, lengths, o, top, total, S, G, D**-0.5 * LOG2_E,
        N=N, BH=power_of_2(N), D=D, BD=BD, WHOLE=pieces == 1,
    )  # fmt: skip
    if pieces > 1:
        launch.launch(
            _merge_kernel, (B * H,), MERGE.find(q.device),
            o, top, total, lengths, out, pieces, H=H, D=D, BD=BD, BS=BS,
        )  # fmt: skip
    return out
