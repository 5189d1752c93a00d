"""Attention over right-padded batches at awkward shapes, against the fp32 reference."""

import pytest
import torch
import torch.nn.functional as F
from ops import LENGTHS, assert_bf16, assert_fp32, randn

from slant_kernels import attention


@pytest.mark.parametrize("prefix", [0, 1, 30])
@pytest.mark.parametrize("T", LENGTHS)
def test_causal_attention(T, prefix):
    q, k, v = randn(2, 4, T, 16), randn(2, 2, prefix + T, 16, seed=1), randn(2, 2, prefix + T, 16, seed=2)
    assert_fp32(attention.causal_attention(q, k, v), attention.causal_attention_reference(q, k, v))
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    reference = attention.causal_attention_reference(q, k, v)
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    mask = torch.ones(T, prefix + T, dtype=torch.bool).tril(prefix)
    rounded = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert_bf16(attention.causal_attention(q, k[:, ::2], v[:, ::2]), reference, rounded)


def test_last_attention_reads_only_its_rows_keys():
    q, k, v = randn(3, 6, 1, 16), randn(3, 2, 70, 16, seed=1), randn(3, 2, 70, 16, seed=2)
    lengths = torch.tensor([1, 65, 70])
    for row, length in enumerate(lengths):
        k[row, :, length:], v[row, :, length:] = torch.nan, torch.nan
    out = attention.last_attention(q, k, v, lengths)
    assert_fp32(out, attention.last_attention_reference(q, k, v, lengths))
