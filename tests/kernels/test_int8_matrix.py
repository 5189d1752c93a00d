"""The int8 linear layer of a CPU: a rotation, the codes, exact sums of their products, one rounding for each scale.

Its product on all ways there are here: oneDNN's, that of each compiled library, and torch's.
"""

import numpy as np
import pytest
import torch
from ops import assert_fp32, randn

from slant_kernels import cpu, native
from slant_kernels.int8 import (
    ZERO,
    Int8Matrix,
    OneDnnInt8Matrix,
    PanelInt8Matrix,
    block,
    int8_matrix,
    quantize_rows,
    rotate,
)
from slant_kernels.linear import linear

CPU = torch.device("cpu")
WAYS = {"torch": Int8Matrix, **dict.fromkeys(native.levels() if native.level() else (), PanelInt8Matrix)}
if cpu.has("avx512vnni") and torch.backends.mkldnn.is_available():
    WAYS["onednn"] = OneDnnInt8Matrix


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """Only the torch path of other ops; this one's are below."""


@pytest.fixture(params=list(WAYS), autouse=True)
def way(request, monkeypatch, poison):
    """A way to multiply, which the test must take; rows are quantized by torch on all but the libraries."""
    name, kind, products = request.param, WAYS[request.param], []
    monkeypatch.setattr(native, "levels", lambda: (name,) if kind is PanelInt8Matrix else ())
    has = cpu.has
    monkeypatch.setattr(cpu, "has", lambda asked: has(asked) and (kind is OneDnnInt8Matrix or "vnni" not in asked))
    call = kind.product
    monkeypatch.setattr(kind, "product", lambda self, *rest: products.append(type(self)) or call(self, *rest))
    yield name
    assert set(products) <= {kind}


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
    assert matrix.nbytes == outer * inner + 4 * outer
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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("inner", [15, 16, 128])
def test_a_token_that_is_not_finite_gets_nan_and_alone(value, inner):
    x = randn(3, inner).to(CPU)
    x[1, 4] = value
    y = linear(x, int8_matrix(randn(8, inner, seed=1).to(CPU)))
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()
    assert linear(x[:0], int8_matrix(randn(8, inner).to(CPU))).shape == (0, 8)


def codes_of(rows, columns, seed):
    """Random codes around 128, all of them possible, with rows of the largest, the smallest, and zeros."""
    codes = torch.randint(256, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    for row, code in enumerate((255, 0, ZERO)):
        codes[row::7] = code
    return codes


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 12, 63, 65, 127, 129, 1000])
@pytest.mark.parametrize(("outer", "inner"), [(33, 30), (96, 516), (5, 1028)])
def test_sums_are_exact(rows, outer, inner, monkeypatch):
    """With scales of one, below 2**24: the integers themselves, for any number of rows and of threads."""
    w8, x8 = codes_of(outer, inner, 1), codes_of(rows, inner, 2)
    expected = (x8.long() - ZERO) @ (w8.long() - ZERO).T
    given = w8, torch.full((outer, 1), float(block(inner)))
    monkeypatch.setattr("slant_kernels.int8.quantize_rows", lambda weight: (given[0].clone(), given[1]))
    matrix = int8_matrix(torch.empty(outer, inner))
    ones = torch.ones(rows, 1)
    y = matrix.product(x8, ones, torch.float32)
    assert torch.equal(y, expected.float())
    assert torch.equal(matrix.product(x8[:1], ones[:1], torch.float32), y[:1])
    torch.set_num_threads(1)
    assert torch.equal(matrix.product(x8, ones, torch.float32), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ways_scale_alike(dtype, monkeypatch):
    """The bits of the formula: the sum in fp32, times w_scale, times x_scale; bf16 rounds once, with oneDNN twice."""
    weight, x = randn(70, 4096, seed=1).to(CPU), randn(9, 4096).to(CPU)
    (x8, x_scale), (w8, w_scale) = quantize_rows(x), quantize_rows(weight)
    sums = (x8.long() - ZERO) @ (w8.long() - ZERO).T
    expected = sums.float() * (w_scale[:, 0] / block(4096)) * x_scale
    y = int8_matrix(weight).product(x8, x_scale, dtype)
    if dtype == torch.float32:
        assert torch.equal(y, expected)
    else:
        assert ((y.float() - expected).abs() <= 3.02 * 2**-8 * expected.abs()).all()
