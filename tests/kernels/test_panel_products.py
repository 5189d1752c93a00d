"""Products in panels at every set of instructions this processor has, against the description of their matrices."""

from dataclasses import replace

import pytest
import torch
from ops import randn
from test_quantized import random_matrix

from slant_kernels import native
from slant_kernels.panels import can_pack, pack_codes, pack_numbers, packed
from slant_kernels.quantized import BITS, GROUP_SIZES, dequantize_reference, unpack

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
ROWS = (1, 2, 5, 6, 7, 13, 63, 65, 1000)

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def made(bits, group_size, N, K, seed=0):
    """A matrix in panels, and its numbers in fp32."""
    if bits == 16:
        dense = (randn(N, K, seed=seed) / K**0.5).bfloat16()
        return packed(dense), dense.float()
    matrix = random_matrix(N, K, bits, group_size, seed)
    return packed(matrix), dequantize_reference(matrix)


def assert_product(y, x, weight):
    """Weights are rounded once to the dtype of x, and sums at the end.

    The bound is that of fp32 sums in any order, and half a step of bf16 for a result that is rounded to it.
    """
    left, right = x.double(), weight.to(x.dtype).double()
    exact, sizes = left @ right.T, left.abs() @ right.abs().T
    step = 0 if y.dtype == torch.float32 else 2**-8
    assert y.dtype == x.dtype
    assert ((y.double() - exact).abs() <= exact.abs() * step + sizes * x.shape[1] ** 0.5 * 2**-23).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_rows(rows, dtype):
    for bits in (4, 16):
        matrix, weight = made(bits, 64, 35, 96)
        x = randn(rows, 96, dtype=dtype, seed=1)
        assert_product(matrix.multiply(x), x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "K"), [(1, 32), (31, 64), (32, 160), (100, 608), (33, 4128)])
def test_shapes(N, K, dtype):
    """Less than a panel and several; one run of k, less and more than a strip."""
    for bits in (*BITS, 16):
        matrix, weight = made(bits, 128, N, K)
        for rows in (3, 130):
            x = randn(rows, K, dtype=dtype, seed=1)
            assert_product(matrix.multiply(x), x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_grids(bits, group_size, dtype):
    """K of 11 runs: the last group may be shorter."""
    matrix, weight = made(bits, group_size, 70, 352)
    x = randn(9, 352, dtype=dtype, seed=1)
    assert_product(matrix.multiply(x), x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [*BITS, 16])
def test_weights_are_those_of_dequantize(bits, dtype):
    """Rows of the identity choose single weights: the very numbers, smallest scales and zeros of any size included."""
    scales = torch.tensor([2.0**-24, 2.0**-15, 0.017, 1.0, 3001.0, 65504.0]).repeat(20)[:64].half()
    zeros = torch.tensor([0.0, -0.0, 2.0**-24, 0.3333, -7.7, 1000.0, -65504.0]).repeat(20)[:64].half()
    if bits == 16:
        matrix, weight = made(16, 0, 64, 64)
    else:
        q = random_matrix(64, 64, bits, 32)
        q.scales[:], q.zeros[:] = scales, zeros
        matrix, weight = packed(q), dequantize_reference(q)
    x = torch.eye(64, dtype=dtype, device="cpu")
    assert torch.equal(matrix.multiply(x), weight.to(dtype).T)


def test_a_row_has_the_same_bits_in_any_company():
    """Alone, among others, and on any number of threads; tiles, strips and blocks differ."""
    threads = torch.get_num_threads()
    for bits, dtype in ((4, torch.bfloat16), (3, torch.float32), (16, torch.float32)):
        matrix, _ = made(bits, 64, 70, 1056)
        x = randn(700, 1056, dtype=dtype, seed=1)
        whole = matrix.multiply(x)
        for count, rows in ((1, slice(0, 700)), (3, slice(0, 700)), (2, slice(7, 8)), (2, slice(33, 100))):
            torch.set_num_threads(count)
            try:
                assert torch.equal(matrix.multiply(x[rows]), whole[rows])
            finally:
                torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_and_alone(dtype, value):
    for bits in (4, 16):
        matrix, weight = made(bits, 64, 35, 96)
        x = randn(40, 96, dtype=dtype, seed=1)
        x[11, 50] = value
        y = matrix.multiply(x)
        assert not y[11].isfinite().any()
        others = [row for row in range(40) if row != 11]
        assert_product(y[others], x[others], weight)


def test_slices_leading_dimensions_and_outputs():
    matrix, weight = made(4, 64, 35, 96)
    memory = torch.full((2, 30, 200), torch.nan, device=CPU)
    x = memory[:, 3:20, 64:160]
    x.copy_(randn(2, 17, 96))
    y = matrix.multiply(x)
    assert y.shape == (2, 17, 35)
    assert_product(y.flatten(0, 1), x.flatten(0, 1), weight)
    wide = torch.full((34, 50), torch.nan, device=CPU)
    matrix.multiply(x, wide[:, 5:40])
    assert torch.equal(wide[:, 5:40], y.flatten(0, 1))
    assert wide[:, :5].isnan().all()
    assert wide[:, 40:].isnan().all()
    turned = randn(96, 6).T
    assert_product(matrix.multiply(turned), turned, weight)
    assert matrix.multiply(x[:, :0]).shape == (2, 0, 35)
    assert matrix.shape == (35, 96)


@pytest.mark.parametrize(("N", "K"), [(1, 32), (35, 96), (64, 160), (33, 256)])
@pytest.mark.parametrize("bits", [*BITS, 16])
def test_packing(bits, N, K):
    """The library's packing is torch's, of rows that lie apart too."""
    panel = native.panel()
    if bits == 16:
        dense = randn(2 * N, K).bfloat16()[::2]
        assert torch.equal(packed(dense).words, pack_numbers(dense, panel))
        return
    q = random_matrix(N, K, bits, 32)
    words = pack_codes(unpack(q.codes, bits, K), bits, panel)
    assert torch.equal(packed(q).words, words)
    wide = torch.zeros(N, q.codes.shape[1] + 7, dtype=torch.uint8, device=CPU)
    wide[:, 3:-4] = q.codes
    assert torch.equal(packed(replace(q, codes=wide[:, 3:-4])).words, words)


def test_where_matrices_are_packed(level):
    assert can_pack(CPU, 96, 32)
    assert not can_pack(CPU, 96, 48)
    assert not can_pack(torch.device("cuda"), 96)
    made(4, 64, 1, 32)[0].multiply(randn(1, 32))  # a test of this fixture calls an op
