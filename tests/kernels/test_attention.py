"""Attention over right-padded batches at awkward shapes, against the fp32 reference."""

import pytest
import torch
import torch.nn.functional as F
from ops import LENGTHS, assert_bf16, assert_fp32, randn

from slant_kernels import attention
from slant_kernels.launch import Config, Table


@pytest.mark.parametrize("prefix", [0, 1, 30])
@pytest.mark.parametrize("T", LENGTHS)
def test_causal_attention(T, prefix):
    q, k, v = randn(2, 4, T, 16), randn(2, 2, prefix + T, 16, seed=1), randn(2, 2, prefix + T, 16, seed=2)
    assert_fp32(causal_attention(q, k, v), attention.causal_attention_reference(q, k, v))
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    reference = attention.causal_attention_reference(q, k, v)
    mask = torch.ones(T, prefix + T, dtype=torch.bool).tril(prefix)
    k2, v2 = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    rounded = F.scaled_dot_product_attention(q, k2, v2, attn_mask=mask)
    assert_bf16(causal_attention(q, k, v), reference, rounded)


def test_long_texts_have_their_scores_from_another_product(path, monkeypatch):
    q, k, v = randn(2, 4, 130, 16), randn(2, 2, 160, 16, seed=1), randn(2, 2, 160, 16, seed=2)
    calls = []
    monkeypatch.setattr(attention, "multiply", lambda x, w: calls.append(len(w)) or x @ w.T)
    monkeypatch.setattr(attention, "LONG", 128)
    assert_fp32(causal_attention(q, k, v), attention.causal_attention_reference(q, k, v))
    assert (calls == 4 * [158] + 4 * [160]) or path != "torch"


def causal_attention(q, k, v):
    """As the model calls it: queries of zeros in front."""
    prefix = k.shape[2] - q.shape[2]
    return attention.causal_attention(F.pad(q, (0, 0, prefix, 0)), k, v, prefix)


def last_inputs(lengths, S, H, G, D, dtype=torch.float32, beyond=torch.nan):
    """Queries, keys and values of a right-padded batch, with NaN behind each row's keys, and its lengths."""
    B = len(lengths)
    q, k, v = (randn(B, *shape, D, dtype=dtype, seed=seed) for seed, shape in enumerate([(H, 1), (G, S), (G, S)]))
    for row, length in enumerate(lengths):
        k[row, :, length:], v[row, :, length:] = beyond, beyond
    return q, k, v, torch.tensor(lengths)


def assert_last_attention(*args):
    inputs = last_inputs(*args)
    assert_fp32(attention.last_attention(*inputs), attention.last_attention_reference(*inputs))
    q, k, v, lengths = last_inputs(*args, dtype=torch.bfloat16)
    rounded = torch.cat([sdpa_row(q[b], k[b], v[b], length) for b, length in enumerate(lengths.tolist())])
    reference = attention.last_attention_reference(q, k, v, lengths)
    assert_bf16(attention.last_attention(q, k, v, lengths), reference, rounded)


def sdpa_row(q, k, v, length):
    k, v = (x[None, :, :length].repeat_interleave(len(q) // len(x), dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q[None], k, v)


@pytest.mark.parametrize("S", [1, 31, 32, 33, 255, 256])
def test_last_attention_over_one_piece(S):
    assert_last_attention([S, max(1, S // 2), 1], S, 6, 2, 16)


@pytest.mark.parametrize("S", [257, 512, 513, 700])
def test_last_attention_over_several_pieces(S):
    """Texts that end at, before and after the edges of pieces; some pieces of the batch hold nothing of a text."""
    assert_last_attention([S, 256, 257, 1], S, 4, 2, 16)


@pytest.mark.parametrize(("H", "G", "D"), [(16, 4, 256), (3, 1, 24), (2, 2, 8)])
def test_last_attention_of_heads_of_the_real_and_odd_sizes(H, G, D):
    assert_last_attention([40, 300], 300, H, G, D)


def test_last_attention_merges_more_pieces_than_one_tile_holds(monkeypatch):
    monkeypatch.setattr(attention, "MERGE", Table({("", ""): Config({"BP": 2})}))
    assert_last_attention([1100, 520], 1100, 1, 1, 8)


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_last_attention_with_flat_and_steep_scores(scale):
    """Steep ones put all weight on one key of one piece, where a share of another overflows if it is scaled wrongly."""
    q, k, v, lengths = last_inputs([600, 290], 600, 4, 2, 16)
    q = q * scale
    out = attention.last_attention(q, k, v, lengths)
    assert_fp32(out, attention.last_attention_reference(q, k, v, lengths))


def test_last_attention_with_all_scores_far_below_zero():
    q, k, v, lengths = last_inputs([300, 1], 300, 2, 1, 16)
    q, k = torch.full_like(q, 1e3), -k.abs() - 1e3
    out = attention.last_attention(q, k, v, lengths)
    assert_fp32(out, attention.last_attention_reference(q, k, v, lengths))


def test_a_row_of_last_attention_depends_on_its_own_keys_only():
    """Bit for bit, whatever the padding, the number of pieces and the neighbours."""
    q, k, v, lengths = last_inputs([200, 600, 31], 600, 4, 2, 16)
    out = attention.last_attention(q, k, v, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = (x[row : row + 1, :, :length] for x in (q, k, v))
        assert torch.equal(attention.last_attention(*alone, lengths[row : row + 1]), out[row : row + 1])
