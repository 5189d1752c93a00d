"""The digit head: final norm, one dot product a label, softmax, expected label. All fp32.

    h = rms_norm(hidden);  logits = rows h;  p = softmax(logits);  expected = sum_i i p_i

Shapes: hidden ``[B, D]`` at the last position, weight fp32 ``[D]``, rows fp32 ``[n, D]`` with n from 2 to 16.

The kernel takes one pass and one launch: a dot product with the normed hidden state is one with hidden (1 + weight),
divided by the root mean square afterwards, so that nothing waits for the statistics and all loads start at once.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, jit, power_of_2, tl
from slant_kernels.norm import rms_norm, rms_norm_reference


class Digits(NamedTuple):
    """logits and probabilities fp32 ``[B, n]``, expected fp32 ``[B]``, label int64 ``[B]``."""

    logits: Tensor
    probabilities: Tensor
    expected: Tensor
    label: Tensor


def digit_head_reference(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float) -> Digits:
    h = rms_norm_reference(hidden, weight, eps).double()
    logits = torch.stack([(h * row.double()).sum(-1) for row in rows], dim=-1)
    odds = torch.exp(logits - logits.amax(-1, keepdim=True))
    p = odds / odds.sum(-1, keepdim=True)
    expected = torch.stack([i * p[:, i] for i in range(len(rows))]).sum(0)
    return Digits(logits.float(), p.float(), expected.float(), p.argmax(-1))


# 8 labels by 256 columns are 4 fp32 a thread, so that all ten steps of 2560 columns fit in registers at once.
HEAD = Table({("", ""): Config({"BD": 256}, num_warps=16)})


@jit()
def _digit_head_kernel(
    p_hidden, p_residual, p_weight, p_rows, p_logits, p_p, p_expected, p_label, eps,
    N: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """One text."""
    i_b = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    m_n = o_n < N
    o_row = tl.minimum(o_n, N - 1)[:, None]  # loads without a mask go out together, and the last row is in the cache
    squares = tl.zeros([BD], tl.float32)
    products = tl.zeros([BN, BD], tl.float32)
    for i_d in tl.static_range(0, D, BD):
        o_d = i_d + tl.arange(0, BD)
        m_d = o_d < D
        x = tl.load(p_hidden + i_b * D + o_d, mask=m_d, other=0.0)
        if ADD:
            residual = tl.load(p_residual + i_b * D + o_d, mask=m_d, other=0.0)
            x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        x = x.to(tl.float32)
        scaled = x * (1 + tl.load(p_weight + o_d, mask=m_d, other=0.0))
        products += scaled[None] * tl.load(p_rows + o_row * D + o_d[None], mask=m_d[None], other=0.0)
        squares += x * x
    logits = tl.sum(products, 1) * tl.rsqrt(tl.sum(squares) / D + eps)
    logits = tl.where(m_n, logits, float("-inf"))
    odds = tl.exp(logits - tl.max(logits))
    p = odds / tl.sum(odds)
    tl.store(p_logits + i_b * N + o_n, logits, mask=m_n)
    tl.store(p_p + i_b * N + o_n, p, mask=m_n)
    tl.store(p_expected + i_b, tl.sum(p * o_n))
    tl.store(p_label + i_b, tl.argmax(p, 0).to(tl.int64))


def digit_head(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float, residual: Tensor | None = None) -> Digits:
    """Score the last position of each row; a residual ``[B, D]`` is added to hidden first, in hidden's dtype."""
    if launch.on_gpu(hidden):
        return _digit_head(hidden.contiguous(), weight, rows, eps, residual)
    hidden = hidden if residual is None else residual + hidden
    logits = F.linear(rms_norm(hidden.float(), weight, eps), rows)
    p = logits.softmax(-1)
    expected = p @ torch.arange(len(rows), dtype=p.dtype, device=p.device)
    return Digits(logits, p, expected, p.argmax(-1))


def _digit_head(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float, residual: Tensor | None) -> Digits:
    (B, D), N = hidden.shape, len(rows)
    logits, p = weight.new_empty(B, N), weight.new_empty(B, N)
    expected, label = weight.new_empty(B), weight.new_empty(B, dtype=torch.int64)
    launch.launch(
        _digit_head_kernel, (B,), HEAD.find(hidden.device),
        hidden, hidden if residual is None else residual.contiguous(), weight, rows.contiguous(),
        logits, p, expected, label, eps, N=N, BN=power_of_2(N), D=D, ADD=residual is not None,
    )  # fmt: skip
    return Digits(logits, p, expected, label)
