"""Norm, rotary positions and the output gate around attention at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, LENGTHS, assert_bf16, assert_fp32, randn

from slant_kernels import rotary


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
