"""The digit head: final norm, one dot product a label, softmax. All fp32.

    h = rms_norm(hidden);  logits = rows h;  probabilities = softmax(logits)

Shapes: hidden ``[B, D]`` at the last position, weight fp32 ``[D]``, rows fp32 ``[n, D]`` with n from 2 to 16. Returns
logits and probabilities, fp32 ``[B, n]``. Label and expected score are left to the host: five numbers a text.

The kernel takes one pass and one launch: a dot product with the normed hidden state is one with hidden (1 + weight),
divided by the root mean square afterwards, so that nothing waits for the statistics and all loads start at once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, jit, power_of_2, tl
from slant_kernels.norm import rms_norm, rms_norm_reference


def digit_head_reference(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    h = rms_norm_reference(hidden, weight, eps).double()
    logits = torch.stack([(h * row.double()).sum(-1) for row in rows], dim=-1)
    odds = torch.exp(logits - logits.amax(-1, keepdim=True))
    return logits.float(), (odds / odds.sum(-1, keepdim=True)).float()


# 8 labels by 256 columns are 4 fp32 a thread, so that all ten steps of 2560 columns fit in registers at once.
HEAD = Table({("", ""): Config({"BD": 256}, num_warps=16)})


@jit()
def _digit_head_kernel(
    p_hidden, p_weight, p_rows, p_logits, p_p, eps,
    N: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
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
        x = tl.load(p_hidden + i_b * D + o_d, mask=m_d, other=0.0).to(tl.float32)
        scaled = x * (1 + tl.load(p_weight + o_d, mask=m_d, other=0.0))
        products += scaled[None] * tl.load(p_rows + o_row * D + o_d[None], mask=m_d[None], other=0.0)
        squares += x * x
    logits = tl.sum(products, 1) * tl.rsqrt(tl.sum(squares) / D + eps)
    logits = tl.where(m_n, logits, float("-inf"))
    odds = tl.exp(logits - tl.max(logits))
    tl.store(p_logits + i_b * N + o_n, logits, mask=m_n)
    tl.store(p_p + i_b * N + o_n, odds / tl.sum(odds), mask=m_n)


def digit_head(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Logits and probabilities of the last position of each text."""
    if launch.on_gpu(hidden):
        return _digit_head(hidden.contiguous(), weight, rows, eps)
    logits = F.linear(rms_norm(hidden.float(), weight, eps), rows)
    return logits, logits.softmax(-1)


def _digit_head(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    (B, D), N = hidden.shape, len(rows)
    logits, p = (torch.empty(B, N, dtype=torch.float32, device=hidden.device) for _ in range(2))
    launch.launch(
        _digit_head_kernel, (B,), HEAD.find(hidden.device),
        hidden, weight, rows.contiguous(), logits, p, eps, N=N, BN=power_of_2(N), D=D,
    )  # fmt: skip
    return logits, p
