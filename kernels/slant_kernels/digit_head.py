"""The digit head: final norm, one dot product a label, softmax, expected label. All fp32.

    h = rms_norm(hidden);  logits = rows h;  p = softmax(logits);  expected = sum_i i p_i

Shapes: hidden ``[B, D]`` at the last position, weight fp32 ``[D]``, rows fp32 ``[n, D]`` with n from 2 to 16.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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


def digit_head(hidden: Tensor, weight: Tensor, rows: Tensor, eps: float) -> Digits:
    """Score the last position of each row."""
    logits = F.linear(rms_norm(hidden.float(), weight, eps), rows)
    p = logits.softmax(-1)
    expected = p @ torch.arange(len(rows), dtype=p.dtype, device=p.device)
    return Digits(logits, p, expected, p.argmax(-1))
