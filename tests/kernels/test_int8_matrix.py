"""The int8 linear layer of a CPU: a rotation, the codes, exact sums of their products, one rounding for each scale."""

import numpy as np
import pytest
import torch
from ops import assert_fp32, randn

from slant_kernels.int8 import ZERO, block, can_multiply_int8, int8_matrix, quantize_rows, rotate
from slant_kernels.linear import linear

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_multiply_int8(CPU), reason="this CPU has no VNNI")


def reference(x, weight):
    """The product of what the codes of both stand for."""
    (x8, x_scale), (w8, w_scale) = quantize_rows(x), quantize_rows(weight)
    w_scale = w_scale / block(weight.shape[1])
    return ((x8.double() - ZERO) * x_scale @ ((w8.double() - ZERO) * w_scale).T).float()


def relative_error(y, expected):
    return ((y.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("columns", "size"), [(65, 1), (48, 16), (384, 128), (3584, 512), (8192, 4096)])
def test_the_rotation_is_by_sylvesters_matrices(columns, size):
    i = np.arange(size)
    signs = torch.from_numpy((-1.0) ** np.bitwise_count(i[:, None] & i))
    x = randn(2, 3, columns).to(CPU)
    expected = (x.double().unflatten(-1, (-1, size)) @ signs.double()).flatten(-2)
    torch.testing.assert_close(rotate(x).double(), expected, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (65, 31), (48, 80), (1024, 64)])
def test_products_are_those_of_the_codes(inner, outer):
    weight = randn(outer, inner, seed=1).to(CPU) / inner**0.5
    matrix = int8_matrix(weight)
    assert matrix.shape == (outer, inner)
    assert matrix.nbytes == outer * inner + 8 * outer
    for rows in (1, 3, 130):
        x = randn(rows, inner).to(CPU)
        assert_fp32(linear(x, matrix), reference(x, weight))
        assert 1e-4 < relative_error(linear(x, matrix), x @ weight.T) < 0.03, "it rounds to 8 bits"


@pytest.mark.parametrize(
    ("outlying", "factor", "bound"), [([3], 100, 0.03), ([3, 700], 100, 0.05), (range(128, 256), 10, 0.04)]
)
def test_outlying_channels_are_spread(outlying, factor, bound):
    """As one channel, as two, as a whole head; without the rotation the errors are 0.19, 0.29 and 0.067."""
    x, weight = randn(64, 1024).to(CPU), randn(48, 1024, seed=1).to(CPU)
    x[:, outlying] *= factor
    weight[:, outlying] /= factor
    assert relative_error(linear(x, int8_matrix(weight)), x @ weight.T) < bound


def test_bf16_rounds_the_sum_and_the_scale():
    weight, x = randn(24, 64, seed=1).to(CPU).bfloat16(), randn(2, 9, 64).to(CPU).bfloat16()
    y = linear(x, int8_matrix(weight))
    expected = reference(x, weight)
    assert y.dtype == torch.bfloat16
    assert y.shape == expected.shape
    # Three factors within bf16's 2**-8 of one: the scaled sum, the token's scale, their product.
    assert ((y.float() - expected).abs() <= 3.02 * 2**-8 * expected.abs() + 1e-6).all()


def test_codes_span_eight_bits_and_round_to_the_nearest():
    x = torch.tensor([[127.0, -127.0, 0.0, 0.49, 0.51, -0.51, 63.5]], device=CPU)
    codes, scale = quantize_rows(x)
    assert codes.dtype == torch.uint8
    assert (codes.int() - ZERO).tolist() == [[127, -127, 0, 0, 1, -1, 64]]
    assert scale.tolist() == [[1.0]]


def test_each_token_has_its_own_scale():
    x = randn(4, 32).to(CPU) * torch.tensor([1e-3, 1.0, 1e3, 0.0], device=CPU)[:, None]
    codes, scales = quantize_rows(x)
    assert (((codes.float() - ZERO) * scales - rotate(x)).abs() <= scales * 0.5001).all()
    assert codes[3].eq(ZERO).all()
    assert torch.isfinite(scales).all()


def test_a_token_of_nan_stays_nan_and_alone():
    x = randn(3, 16).to(CPU)
    x[1, 4] = torch.nan
    y = linear(x, int8_matrix(randn(8, 16, seed=1).to(CPU)))
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()
    assert linear(x[:0], int8_matrix(randn(8, 16).to(CPU))).shape == (0, 8)
