"""The int8 linear layer of a CPU: the steps of ``eight_bit``, exact sums, one rounding for each scale."""

import pytest
import torch
from ops import assert_fp32, randn

from slant_kernels.eight_bit import eight_bit_linear_reference, eight_bit_weights
from slant_kernels.int8 import ZERO, can_multiply_int8, int8_matrix, quantize_tokens
from slant_kernels.linear import linear

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_multiply_int8(CPU), reason="this CPU has no VNNI")


@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (65, 31), (48, 80)])
def test_products_are_those_of_the_codes(inner, outer):
    weight = randn(outer, inner, seed=1).to(CPU) / inner**0.5
    matrix = int8_matrix(weight)
    assert matrix.shape == (outer, inner)
    assert matrix.nbytes == outer * inner + 8 * outer
    for rows in (1, 3, 130):
        x = randn(rows, inner).to(CPU)
        reference = eight_bit_linear_reference(x, *eight_bit_weights(weight, torch.int8))
        assert_fp32(linear(x, matrix), reference)
        assert (linear(x, matrix) - x @ weight.T).abs().max() > 1e-4, "it rounds to 8 bits"


def test_bf16_rounds_the_sum_and_the_scale():
    weight, x = randn(24, 64, seed=1).to(CPU).bfloat16(), randn(2, 9, 64).to(CPU).bfloat16()
    y = linear(x, int8_matrix(weight))
    reference = eight_bit_linear_reference(x, *eight_bit_weights(weight, torch.int8))
    assert y.dtype == torch.bfloat16
    assert y.shape == reference.shape
    # Three factors within bf16's 2**-8 of one: the scaled sum, the token's scale, their product.
    assert ((y.float() - reference).abs() <= 3.02 * 2**-8 * reference.abs() + 1e-6).all()


def test_codes_span_eight_bits_and_round_to_the_nearest():
    x = torch.tensor([[127.0, -127.0, 0.0, 0.49, 0.51, -0.51, 63.5]])
    codes, scale = quantize_tokens(x)
    assert codes.dtype == torch.uint8
    assert (codes.int() - ZERO).tolist() == [[127, -127, 0, 0, 1, -1, 64]]
    assert scale.tolist() == [[1.0]]


def test_each_token_has_its_own_scale():
    x = randn(4, 32).to(CPU) * torch.tensor([1e-3, 1.0, 1e3, 0.0])[:, None]
    codes, scales = quantize_tokens(x)
    assert (((codes.float() - ZERO) * scales - x).abs() <= scales * 0.5001).all()
    assert codes[3].eq(ZERO).all()
    assert torch.isfinite(scales).all()


def test_a_token_of_nan_stays_nan_and_alone():
    x = randn(3, 16).to(CPU)
    x[1, 4] = torch.nan
    y = linear(x, int8_matrix(randn(8, 16, seed=1).to(CPU)))
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()
    assert linear(x[:0], int8_matrix(randn(8, 16).to(CPU))).shape == (0, 8)
