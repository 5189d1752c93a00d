"""Each op against its own fp32 reference, at awkward shapes, in fp32 and bf16.

fp32 may differ by rounding; in bf16 an op may err twice as much as the reference formula in bf16 by torch does.
"""

import pytest
import torch
import torch.nn.functional as F

from slant_kernels import (
    attention,
    delta_inputs,
    delta_net,
    delta_rule,
    digit_head,
    embedding,
    linear,
    norm,
    rotary,
    swiglu,
)

EPS = 1e-6
LENGTHS = (1, 2, 3, 63, 64, 65, 127, 200)


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_fp32(out, reference):
    torch.testing.assert_close(out, reference, atol=2e-5, rtol=2e-5)


def assert_bf16(out, reference, rounded):
    """|out - reference| <= 2 |rounded - reference| + 1e-6 at the worst; ``rounded`` is the best bf16 could do."""
    assert out.dtype == torch.bfloat16
    bound = 2 * (rounded.float() - reference).abs().max() + 1e-6
    assert (out.float() - reference).abs().max() <= bound


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 129), (1, 65, 256)])
def test_rms_norm(shape):
    x, weight = randn(*shape), randn(shape[-1], seed=1)
    assert_fp32(norm.rms_norm(x, weight, EPS), norm.rms_norm_reference(x, weight, EPS))
    half = x.bfloat16()
    reference = norm.rms_norm_reference(half, weight, EPS)
    assert_bf16(norm.rms_norm(half, weight, EPS), reference, reference.bfloat16())


def test_add_rms_norm_carries_the_sum():
    x, residual, weight = randn(2, 5, 16), randn(2, 5, 16, seed=1), randn(16, seed=2)
    out, stream = norm.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(stream, x + residual)
    assert_fp32(out, norm.rms_norm_reference(x + residual, weight, EPS))
    assert torch.equal(norm.add_rms_norm(x, None, weight, EPS)[1], x)


@pytest.mark.parametrize("shape", [(1, 1, 2, 8), (2, 65, 3, 24)])
def test_gated_rms_norm(shape):
    x, z, weight = randn(*shape), randn(*shape, seed=1), randn(shape[-1], seed=2)
    assert_fp32(norm.gated_rms_norm(x, z, weight, EPS), norm.gated_rms_norm_reference(x, z, weight, EPS))
    reference = norm.gated_rms_norm_reference(x, z.bfloat16(), weight, EPS)
    assert_bf16(norm.gated_rms_norm(x, z.bfloat16(), weight, EPS), reference, reference.bfloat16())


def test_swiglu():
    x = randn(3, 65, 2 * 33)
    assert_fp32(swiglu.swiglu(x), swiglu.swiglu_reference(x))
    gate, up = x.bfloat16().chunk(2, dim=-1)
    assert_bf16(swiglu.swiglu(x.bfloat16()), swiglu.swiglu_reference(x.bfloat16()), F.silu(gate) * up)


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 8, 8), (3, 65, 31), (130, 48, 80)])
def test_linear(rows, inner, outer):
    x, weight = randn(rows, inner), randn(outer, inner, seed=1) / inner**0.5
    assert_fp32(linear.linear(x, weight), linear.linear_reference(x, weight))
    reference = linear.linear_reference(x.bfloat16(), weight.bfloat16())
    assert_bf16(linear.linear(x.bfloat16(), weight.bfloat16()), reference, reference.bfloat16())


def test_embedding_zeroes_the_padding():
    table = randn(10, 6)
    table[9] = torch.nan
    ids, lengths = torch.tensor([[1, 2, 9, 9], [3, 4, 5, 6]]), torch.tensor([2, 4])
    out = embedding.embedding(ids, lengths, table)
    assert torch.equal(out, embedding.embedding_reference(ids, lengths, table))
    assert out[0, 2:].eq(0).all()


@pytest.mark.parametrize("T", LENGTHS)
def test_norm_rotary(T):
    x, weight = randn(2, T, 3, 32), randn(32, seed=1)
    cos, sin = rotary.rotary_tables(T + 5, 8, 10000.0)
    args = (weight, cos[5:], sin[5:], EPS)
    assert_fp32(rotary.norm_rotary(x, *args), rotary.norm_rotary_reference(x, *args))
    reference = rotary.norm_rotary_reference(x.bfloat16(), *args)
    assert_bf16(rotary.norm_rotary(x.bfloat16(), *args), reference, reference.bfloat16())


def test_norm_rotary_with_positions_of_their_own():
    """One query a row, each at another position: the last block's case."""
    x, weight, positions = randn(3, 1, 2, 16), randn(16, seed=1), torch.tensor([4, 0, 7])
    cos, sin = rotary.rotary_tables(8, 8, 100.0)
    out = rotary.norm_rotary(x, weight, cos[positions, None], sin[positions, None], EPS)
    for row, position in enumerate(positions):
        table = cos[position][None], sin[position][None]
        assert_fp32(out[row : row + 1], rotary.norm_rotary_reference(x[row : row + 1], weight, *table, EPS))


def test_gate_heads():
    x, gate = randn(2, 3, 65, 8), randn(2, 65, 3, 8, seed=1)
    assert_fp32(rotary.gate_heads(x, gate), rotary.gate_heads_reference(x, gate))


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


@pytest.mark.parametrize("labels", [2, 5, 16])
def test_digit_head(labels):
    hidden, weight, rows = randn(7, 33) * 4, randn(33, seed=1), randn(labels, 33, seed=2)
    out, reference = (f(hidden, weight, rows, EPS) for f in (digit_head.digit_head, digit_head.digit_head_reference))
    for name in ("logits", "probabilities", "expected"):
        torch.testing.assert_close(getattr(out, name), getattr(reference, name), atol=3e-5, rtol=3e-5)
    assert torch.equal(out.label, reference.label)
    torch.testing.assert_close(out.probabilities.sum(-1), torch.ones(7))


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("T", LENGTHS)
def test_delta_inputs(T, initial):
    H, Hv, K, V = 2, 4, 8, 12
    C = 2 * H * K + Hv * V
    args = randn(2, T, C), randn(2, T, Hv, seed=1), randn(2, T, Hv, seed=2), randn(4, C, seed=3)
    rest = randn(Hv, seed=4), randn(Hv, seed=5), H, K, randn(1, 3, C, seed=6) if initial else None
    for out, reference in zip(
        delta_inputs.delta_inputs(*args, *rest), delta_inputs.delta_inputs_reference(*args, *rest), strict=True
    ):
        assert_fp32(out, reference)


def recurrence(T, H=2, Hv=4, K=16, V=24, decay=1.0):
    q, k = (F.normalize(randn(2, T, H, K, seed=s), dim=-1) for s in (0, 1))
    g = -decay * randn(2, T, Hv, seed=3).exp()
    return q * K**-0.5, k, randn(2, T, Hv, V, seed=2), g, torch.sigmoid(2 * randn(2, T, Hv, seed=4))


def assert_recurrence(args, state=None):
    out, final = delta_rule.delta_rule(*args, state)
    expected, expected_final = delta_rule.delta_rule_reference(*args, state)
    for ours, theirs in ((out, expected), (final, expected_final)):
        assert ours.isfinite().all()
        assert (ours - theirs).square().mean().sqrt() <= 0.005 * theirs.square().mean().sqrt()
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("T", range(1, 201))
def test_delta_rule_at_every_length(T):
    assert_recurrence(recurrence(T))


@pytest.mark.parametrize("decay", [0.0, 1e-3, 30.0])
@pytest.mark.parametrize("state_rows", [1, 2])
def test_delta_rule_from_a_state(decay, state_rows):
    assert_recurrence(recurrence(100, decay=decay), randn(state_rows, 4, 16, 24, seed=9))


@pytest.mark.parametrize(("H", "Hv"), [(1, 1), (3, 3), (1, 5), (2, 6)])
def test_delta_rule_groups_heads(H, Hv):
    assert_recurrence(recurrence(70, H=H, Hv=Hv))


def test_delta_rule_on_one_word_repeated():
    """Equal keys, no decay, beta 1: where inverting the triangular system by doubling overflows."""
    q, k, v, g, beta = recurrence(130)
    k = k[:, :1].expand_as(k)
    assert_recurrence((q, k, v, torch.zeros_like(g), torch.ones_like(beta)))


@pytest.mark.parametrize("B", [1, 3, 9])
@pytest.mark.parametrize("T", [1, 2, 64, 65, 200, 600])
def test_delta_net_tiles_equal_one_pass(B, T):
    """Tiles of rows and tokens, each continued from the one before, against the token-by-token references."""
    H, Hv, K, V = 1, 2, 8, 12
    C = 2 * H * K + Hv * V
    mixed, a, b = randn(B, T, C), randn(B, T, Hv, seed=1), randn(B, T, Hv, seed=2)
    weights = randn(4, C, seed=3), randn(Hv, seed=4), randn(Hv, seed=5), H, K
    before, recurrent = randn(1, 3, C, seed=6), randn(1, Hv, K, V, seed=7)
    out, (last, final) = delta_net.delta_net(mixed, a, b, *weights, (before, recurrent), keep_state=True)
    inputs = delta_inputs.delta_inputs_reference(mixed, a, b, *weights, before)
    expected, expected_final = delta_rule.delta_rule_reference(*inputs, recurrent)
    torch.testing.assert_close(out, expected, atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(final, expected_final, atol=5e-5, rtol=5e-5)
    assert torch.equal(last, torch.cat([before.expand(B, -1, -1), mixed], dim=1)[:, -3:])
