"""Norm, rotary positions and the output gate around attention at awkward shapes, against the fp32 reference.

Inputs are strided as the model gives them: keys and values, and queries interleaved with gates, in one projection.
"""

import pytest
import torch
from ops import EPS, assert_bf16, assert_fp32, randn

from slant_kernels import rotary

CASES = [(1, 0), (1, 30), (2, 1), (3, 0), (63, 1), (64, 0), (65, 30)]
"""Lengths of texts and of a prefix."""
CASES += [pytest.param(T, P, marks=pytest.mark.slow) for T, P in ((127, 1), (200, 0))]


def projection(B, T, G, H, D, dtype=torch.float32):
    """kv ``[B, T, 2, G, D]`` and q, gate ``[B, T, H, D]``, views of ``[B, T, 2 (G + H) D]``."""
    kv, qg = randn(B, T, 2 * (G + H) * D, dtype=dtype).split([2 * G * D, 2 * H * D], dim=-1)
    return kv.unflatten(-1, (2, G, D)), *qg.unflatten(-1, (H, 2, D)).unbind(3)


def tables(T, R, start=5):
    return tuple(table[start:].to(torch.get_default_device()) for table in rotary.rotary_tables(start + T, R, 10000.0))


def assert_norm_rotary(B, T, H, D, R, before):
    weight, cos_sin = randn(D, seed=1), tables(T, R)
    for dtype in (torch.float32, torch.bfloat16):
        x = projection(B, T, 2, H, D, dtype)[1]
        out = rotary.norm_rotary(x, weight, *cos_sin, EPS, before)
        reference = rotary.norm_rotary_reference(x, weight, *cos_sin, EPS)
        assert out.shape == (B, H, before + T, D)
        assert out[:, :, :before].eq(0).all()
        if dtype == torch.float32:
            assert_fp32(out[:, :, before:], reference)
        else:
            assert_bf16(out[:, :, before:], reference, reference.bfloat16())


@pytest.mark.parametrize(("T", "before"), CASES)
def test_norm_rotary(T, before):
    assert_norm_rotary(2 if T < 64 else 1, T, 3, 32, 8, before)


@pytest.mark.parametrize(("D", "R"), [(256, 64), (24, 12), (16, 16), (10, 2)])
def test_norm_rotary_of_heads_of_the_real_and_odd_sizes(D, R):
    assert_norm_rotary(2, 5, 4, D, R, 3)


def test_norm_rotary_of_a_contiguous_input():
    x, weight, cos_sin = randn(3, 7, 2, 32), randn(32, seed=1), tables(7, 16)
    assert_fp32(rotary.norm_rotary(x, weight, *cos_sin, EPS), rotary.norm_rotary_reference(x, weight, *cos_sin, EPS))


@pytest.mark.parametrize("T", [1, 4])
def test_norm_rotary_with_positions_of_their_own(T):
    """Each row at other positions: with one query a row, the last block's case."""
    x, weight = projection(3, T, 2, 2, 16)[1], randn(16, seed=1)
    positions = torch.tensor([4, 0, 7])[:, None] + torch.arange(T)
    cos, sin = (table[positions] for table in tables(16, 8, start=0))
    out = rotary.norm_rotary(x, weight, cos, sin, EPS)
    for row in range(3):
        assert_fp32(out[row : row + 1], rotary.norm_rotary_reference(x[row : row + 1], weight, cos[row], sin[row], EPS))


def assert_keys_values(B, T, G, D, R, P):
    weight, cos_sin = randn(D, seed=1), tables(T, R)
    for dtype in (torch.float32, torch.bfloat16):
        kv = projection(B, T, G, 2 * G, D, dtype)[0]
        before = tuple(randn(1, G, P, D, dtype=dtype, seed=seed) for seed in (2, 3)) if P else None
        k, v = rotary.keys_values(kv, weight, *cos_sin, EPS, before)
        reference = rotary.norm_rotary_reference(kv[:, :, 0], weight, *cos_sin, EPS)
        assert torch.equal(v[:, :, P:], kv[:, :, 1].transpose(1, 2))
        for out, old in zip((k, v), before or (), strict=False):
            assert torch.equal(out[:, :, :P], old.expand(B, -1, -1, -1))
        assert k.shape == v.shape == (B, G, P + T, D)
        if dtype == torch.float32:
            assert_fp32(k[:, :, P:], reference)
        else:
            assert_bf16(k[:, :, P:], reference, reference.bfloat16())


@pytest.mark.parametrize(("T", "P"), CASES)
def test_keys_values(T, P):
    assert_keys_values(2 if T < 64 else 1, T, 1, 32, 8, P)


def test_keys_values_of_several_heads():
    assert_keys_values(2, 9, 3, 32, 8, 5)


@pytest.mark.parametrize(("D", "R"), [(256, 64), (24, 12), (16, 16)])
def test_keys_values_of_heads_of_the_real_and_odd_sizes(D, R):
    assert_keys_values(2, 5, 4, D, R, 3)


def test_keys_values_of_positions_no_whole_number_of_heads_apart():
    kv = randn(2, 5, 70)[..., 3:67].unflatten(-1, (2, 2, 16))
    k, v = rotary.keys_values(kv, weight := randn(16, seed=1), *(cos_sin := tables(5, 8)), EPS)
    assert_fp32(k, rotary.norm_rotary_reference(kv[:, :, 0], weight, *cos_sin, EPS))
    assert torch.equal(v, kv[:, :, 1].transpose(1, 2))


def test_keys_values_copies_what_no_norm_could_return():
    """Values and a prefix pass through untouched: infinities, zeros with a sign, tiny numbers."""
    kv, odd = randn(1, 4, 2, 2, 16), torch.tensor([float("inf"), float("-inf"), -0.0, 1e-38]).repeat(4)
    kv[:, :, 1] = odd
    before = odd.expand(1, 2, 3, 16), odd.expand(1, 2, 3, 16)
    k, v = rotary.keys_values(kv, randn(16, seed=1), *tables(4, 8), EPS, before)
    assert torch.equal(k[:, :, :3].contiguous().view(torch.int32), before[0].contiguous().view(torch.int32))
    assert torch.equal(v.contiguous().view(torch.int32), odd.repeat(1, 2, 7, 1).view(torch.int32))


@pytest.mark.parametrize("layout", ["sliced", "transposed", "strided"])
@pytest.mark.parametrize(("B", "T", "H", "D"), [(2, 65, 3, 8), (1, 1, 4, 24), (3, 1, 2, 16), (2, 5, 16, 256)])
def test_gate_heads(B, T, H, D, layout):
    for dtype in (torch.float32, torch.bfloat16):
        gate = projection(B, T, 2, H, D, dtype)[2]
        if layout == "sliced":
            x = randn(B, H, 7 + T, D, dtype=dtype, seed=1)[:, :, 7:]
        elif layout == "transposed":
            x = randn(B, T, H, D, dtype=dtype, seed=1).transpose(1, 2)
        else:
            x = randn(B, H, T, D + 3, dtype=dtype, seed=1)[..., :D]
        out, reference = rotary.gate_heads(x, gate), rotary.gate_heads_reference(x, gate)
        assert out.is_contiguous()
        if dtype == torch.float32:
            assert_fp32(out, reference)
        else:
            rounded = (x.transpose(1, 2) * torch.sigmoid(gate)).flatten(2)
            assert_bf16(out, reference, rounded)
