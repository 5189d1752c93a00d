"""Quantized weights times 8-bit activations: exact sums, one scale a group; by every library that runs, and torch."""

import pytest
import torch
from ops import randn

from slant_kernels import native
from slant_kernels.quantized import BITS, GROUP_SIZES, QuantizedMatrix, dequantize_reference, layout, pack
from slant_kernels.w4a8 import W4A8Matrix, W4A8Panels, quantize_groups, w4a8_matrix

LEVELS = native.levels() if native.level() else ()
ROWS = (1, 2, 5, 7, 12, 63, 65, 129, 1000)


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """Only the torch path of other ops; this one's are below."""


@pytest.fixture(params=("torch", *LEVELS), autouse=True)
def level(request, monkeypatch, poison):
    """The library that multiplies, or torch."""
    monkeypatch.setattr(native, "levels", lambda: () if request.param == "torch" else (request.param,))
    return request.param


def matrix(codes, bits, group_size, scales=None, zeros=None):
    """With scales of one and zeros of minus half the codes' range, so that weights are codes."""
    groups = layout(tuple(codes.shape), bits, group_size)[1]
    scales = torch.ones(groups).half() if scales is None else scales
    zeros = torch.full(groups, -(2.0 ** (bits - 1))).half() if zeros is None else zeros
    return QuantizedMatrix(pack(codes, bits), scales, zeros, bits, group_size, tuple(codes.shape))


def random(N, K, bits, group_size):
    draw = torch.Generator().manual_seed(bits)
    groups = layout((N, K), bits, group_size)[1]
    codes = torch.randint(2**bits, (N, K), generator=draw, dtype=torch.uint8)
    scales, zeros = torch.rand(groups, generator=draw).half() * 0.02 + 0.01, torch.randn(groups, generator=draw).half()
    return matrix(codes, bits, group_size, scales, zeros)


def extreme(N, K, bits):
    """Codes, some columns of which are the largest or zero everywhere."""
    codes = torch.randint(2**bits, (N, K), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    codes[::3], codes[1::7] = 2**bits - 1, 0
    return codes


def activations(M, K, group_size):
    """Whole numbers up to 127 in size, one of which is 127 in each group, so that their scale is one; some rows are
    127, minus 127 or zero everywhere."""
    x = torch.randint(-127, 128, (M, K), generator=torch.Generator().manual_seed(2)).float()
    x[:, ::group_size] = 127
    x[1::5], x[2::5], x[3::5] = 127, -127, 0
    return x


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("M", ROWS)
def test_sums_are_exact(M, bits, group_size, level):
    """Integers below 2**24, at the most that any step in between may hold, for any number of rows and threads."""
    N, K = 70, 224  # the last group is short, and K is no multiple of a strip
    codes, x = extreme(N, K, bits), activations(M, K, group_size)
    weight = w4a8_matrix(matrix(codes, bits, group_size))
    assert isinstance(weight, W4A8Matrix if level == "torch" else W4A8Panels)
    assert weight.shape == (N, K)
    y = weight.multiply(x)
    assert torch.equal(y, (x.long() @ codes.long().T).float())
    torch.set_num_threads(1)
    assert torch.equal(weight.multiply(x), y)


@pytest.mark.parametrize("K", [32, 96, 544, 2560])
@pytest.mark.parametrize("bits", BITS)
def test_products_are_those_of_what_the_codes_stand_for(bits, K):
    for group_size in GROUP_SIZES:
        q, x = random(33, K, bits, group_size), randn(130, K) * torch.logspace(-3, 3, 130)[:, None]
        codes, scales = quantize_groups(x, group_size)
        rounded, weight = (codes.double() * scales).flatten(-2)[:, :K], dequantize_reference(q).double()
        y = w4a8_matrix(q).multiply(x)
        # Sums of a group are exact, so that fp32 rounds a few times a group, beside the code of 0 where it cancels.
        size = rounded.abs() @ (weight.abs() + 2.0**bits * q.scales.max()).T
        assert ((y - rounded @ weight.T).abs() <= 2e-6 * size).all()
        relative = ((rounded - x).norm(dim=1) / x.norm(dim=1)).max()
        assert 1e-4 < relative < 0.01, "it rounds to 8 bits"


@pytest.mark.parametrize("bits", BITS)
def test_a_rows_bits_depend_on_nothing_else(bits):
    q, x = w4a8_matrix(random(48, 1088, bits, 64)), randn(300, 1088)
    together = q.multiply(x)
    for rows in (slice(0, 1), slice(299, 300), slice(5, 12), slice(100, 290)):
        alone = q.multiply(x[rows])
        if isinstance(q, W4A8Panels):
            assert torch.equal(alone, together[rows])
        else:  # a dense product's tiles depend on their number
            torch.testing.assert_close(alone, together[rows], rtol=1e-5, atol=1e-4)


def test_bf16_rounds_the_result():
    q, x = w4a8_matrix(random(37, 256, 4, 64)), randn(2, 9, 256).bfloat16()
    y = q.multiply(x)
    assert y.dtype == torch.bfloat16
    assert y.shape == (2, 9, 37)
    exact = q.multiply(x.float())
    assert ((y.float() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()


def test_rows_lie_where_they_are():
    """Of a wider tensor, and into one, whose other columns stay."""
    q, wide, out = w4a8_matrix(random(40, 96, 4, 32)), randn(7, 160), torch.full((7, 50), 5.0)
    expected = q.multiply(wide[:, 32:128].contiguous())
    assert torch.equal(q.multiply(wide[:, 32:128]), expected)
    if isinstance(q, W4A8Panels):
        q.multiply(wide[:, 32:128], out[:, 5:45])
        assert torch.equal(out[:, 5:45], expected)
        assert (out[:, :5] == 5).all()
        assert (out[:, 45:] == 5).all()
    assert q.multiply(wide[:0, :96]).shape == (0, 40)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_that_is_not_finite_gets_nan_and_alone(value, bits):
    x = randn(3, 192)
    x[1, 70] = value
    y = w4a8_matrix(random(40, 192, bits, 64)).multiply(x)
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()


def test_an_outlier_coarsens_its_group_only():
    x = randn(4, 256)
    x[:, 3] = 1000
    codes, scales = quantize_groups(x, 64)
    error = ((codes * scales).flatten(-2) - x).abs()
    assert error[:, :64].max() > 1
    assert error[:, 64:].max() < 0.02
    assert quantize_groups(torch.zeros(1, 64), 64)[0].eq(0).all()


def test_columns_that_fill_no_run_are_left_to_torch():
    q, x = random(8, 40, 4, 32), randn(3, 40)
    weight = w4a8_matrix(q)
    assert isinstance(weight, W4A8Matrix)
    assert (weight.multiply(x) - x @ dequantize_reference(q).T).norm() < 0.02 * weight.multiply(x).norm()
