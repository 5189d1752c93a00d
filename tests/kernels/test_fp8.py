"""The fp8 linear layer: codes and scales as the header defines them, products that are those of the codes."""

import pytest
import torch
from ops import EPS, randn

from slant_kernels import norm, rotary, swiglu
from slant_kernels.fp8 import (
    E4M3,
    STEP,
    Fp8Matrix,
    empty_rows,
    fp8_matrix,
    multiplies_fp8,
    nbytes,
    quantize_rows,
    quantize_rows_reference,
)
from slant_kernels.launch import target
from slant_kernels.linear import linear

CPU = torch.device("cpu")
# Rows and K; K and N beside multiples of 16, which go to torch's own product on a GPU.
ROWS = [(1, 16), (3, 48), (16, 208), (17, 65)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SHAPES = [(1, 32, 64), (17, 48, 128), (40, 16, 96), (5, 24, 65), (33, 31, 64)]


@pytest.fixture(autouse=True)
def fp8(path):
    device = torch.get_default_device()
    if device.type == "cuda" and not multiplies_fp8(target(device)):
        pytest.skip("this GPU has no e4m3")


def parts(x):
    """Codes and scales on the CPU, without the rows that nobody wrote."""
    rows = quantize_rows(x)
    assert (rows.shape, rows.dtype, rows.codes.dtype, rows.scales.dtype) == (x.shape, x.dtype, E4M3, torch.float32)
    return rows.codes[: rows.rows].to(CPU), rows.scales[: rows.rows].to(CPU)


def error(values, scales):
    """The most that a code changes: a 16th of the value, or half of the least step, 2**-9; fp32 rounds too."""
    return torch.maximum(values.abs() / 16, scales * 2**-10) * (1 + 1e-6)


@DTYPES
@pytest.mark.parametrize("shape", ROWS)
def test_rows_are_those_of_the_reference_bit_for_bit(shape, dtype):
    x = (randn(*shape) * torch.logspace(-3, 3, shape[0], device=torch.get_default_device())[:, None]).to(dtype)
    x[-1, :9] = 0
    (codes, scales), (expected, steps) = parts(x), quantize_rows_reference(x.to(CPU))
    assert torch.equal(codes.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(scales, steps)
    x = x.to(CPU, torch.float32)
    assert ((codes.float() * scales - x).abs() <= error(x, scales)).all()
    assert codes.float().abs().amax(1).eq(448).all(), "the largest of a row has the largest code"
    assert codes[-1, :9].float().eq(0).all()


def test_rows_of_more_dimensions_and_of_a_slice_with_nan_around_it():
    memory = torch.full((2, 3, 96), torch.nan, dtype=torch.bfloat16, device=torch.get_default_device())
    x = memory[..., 16:64].copy_(randn(2, 3, 48))
    codes, scales = parts(x)
    expected, steps = quantize_rows_reference(x.to(CPU).flatten(0, 1))
    assert torch.equal(codes.float(), expected.float())
    assert torch.equal(scales, steps)


def test_small_values_beside_an_outlier_keep_their_bits():
    """Which is why there is no rotation; a code of int8 would be 0 for all of them."""
    x = randn(1, 64)
    x[0, 5] = 4000
    codes, scales = parts(x)
    small = x.to(CPU)[0] != 4000
    found = (codes.float() * scales)[0, small]
    assert (found - x.to(CPU)[0, small]).norm() < 0.04 * x.to(CPU)[0, small].norm()


def test_a_row_of_zeros_has_a_scale():
    codes, scales = parts(torch.zeros(2, 32, device=torch.get_default_device()))
    assert codes.float().eq(0).all()
    assert (scales > 0).all()


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_the_codes(shape, dtype):
    """Sums in fp32, rounded to bf16 at most twice: where a GPU writes it, and as the result."""
    M, N, K = shape
    x, weight = randn(1, M, K, dtype=dtype), randn(N, K, seed=1) / K**0.5
    matrix = fp8_matrix(weight)
    assert isinstance(matrix, Fp8Matrix)
    assert (matrix.shape, matrix.nbytes) == ((N, K), nbytes((N, K)))
    assert matrix.nbytes == matrix.codes.nbytes + matrix.scales.nbytes
    y = linear(x, matrix)
    assert (y.shape, y.dtype) == ((1, M, N), dtype)
    (x8, x_scale), (w8, w_scale) = (quantize_rows_reference(part.to(CPU)) for part in (x[0], weight))
    x8, w8 = x8.double() * x_scale, w8.double() * w_scale
    exact, size = x8 @ w8.T, x8.abs() @ w8.abs().T
    difference = (y[0].to(CPU).double() - exact).abs()
    kept = 2**-11 if y.is_cuda else 1e-6  # of a sum: a tensor core keeps some 14 bits of those of 8-bit products
    assert (difference <= exact.abs() * 2**-8 + size * kept).all()
    unquantized = x[0].to(CPU).double() @ weight.to(CPU).double().T
    assert 0.01 < (exact - unquantized).norm() / unquantized.norm() < 0.06, "it rounds to 8 bits"


def test_every_number_of_rows_is_multiplied_alike():
    x, matrix = randn(35, 64, dtype=torch.bfloat16), fp8_matrix(randn(32, 64, seed=1))
    whole = linear(x, matrix).float()
    for rows in (1, 2, 15, 16, 17):
        y = linear(x[:rows], matrix)
        assert y.shape == (rows, 32)
        # Products of a standard deviation of 8, of which a tensor core keeps some 14 bits.
        assert ((y.float() - whole[:rows]).abs() <= 2**-7 * whole[:rows].abs() + 0.02).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_stays_so_and_alone(bad):
    x = randn(3, 32, dtype=torch.bfloat16)
    x[1, 4] = bad
    y = linear(x, fp8_matrix(randn(16, 32, seed=1)))
    assert y[1].isnan().all()
    assert torch.isfinite(y[[0, 2]]).all()


def same(found, x):
    """Whether rows are those of x in 8 bits: bit for bit, but on a GPU two kernels may sum x in another order."""
    expected = quantize_rows(x)
    count = expected.rows
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert len(found.codes) == len(expected.codes) == -(-count // 16) * 16
    codes, others = (rows.codes[:count].view(torch.uint8) for rows in (found, expected))
    scales, steps = found.scales[:count], expected.scales[:count]
    if x.is_cuda:
        return (codes != others).float().mean() < 0.02 and torch.allclose(scales, steps, rtol=2**-7, atol=0)
    return torch.equal(codes, others) and torch.equal(scales, steps)


@DTYPES
@pytest.mark.parametrize("shape", [(2, 3, 48), (1, 17, 65), (1, 16, 128)])
def test_a_norm_writes_the_codes_of_its_output(shape, dtype):
    x, residual, weight = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), randn(shape[-1], seed=2)
    rows, stream = norm.add_rms_norm_fp8(x, residual, weight, EPS)
    y, expected = norm.add_rms_norm(x, residual, weight, EPS)
    assert same(rows, y)
    assert torch.equal(stream, expected)


@DTYPES
@pytest.mark.parametrize(("heads", "width"), [(3, 16), (4, 32), (5, 24)])
def test_a_gated_norm_writes_a_row_of_all_heads(heads, width, dtype):
    """Of z where its projection left it."""
    x, weight = randn(2, 9, heads, width, dtype=dtype), randn(width, seed=2)
    z = randn(2, 9, 40 + heads * width, dtype=dtype, seed=1)[..., 40:].unflatten(-1, (heads, width))
    rows = norm.gated_rms_norm_fp8(x, z, weight, EPS)
    assert same(rows, norm.gated_rms_norm(x, z, weight, EPS).flatten(2))


@DTYPES
@pytest.mark.parametrize(("heads", "width"), [(3, 16), (4, 32), (5, 24)])
def test_gated_heads_are_written_as_one_row(heads, width, dtype):
    x = randn(2, heads, 12, width, dtype=dtype)[:, :, 3:]
    gate = randn(2, 9, 2 * heads * width, dtype=dtype, seed=1).unflatten(-1, (heads, 2, width)).unbind(3)[1]
    assert same(rotary.gate_heads_fp8(x, gate), rotary.gate_heads(x, gate))


@DTYPES
@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (33, 65), (16, 1100)])
def test_swiglu_writes_the_codes_of_its_output(rows, columns, dtype):
    gate_up = randn(rows, 2 * columns, dtype=dtype)
    out = empty_rows((rows, columns), gate_up)
    assert same(swiglu.swiglu_fp8(gate_up, out), swiglu.swiglu(gate_up))


def test_rows_in_fp8_are_for_a_matrix_in_fp8():
    x = randn(3, 32, dtype=torch.bfloat16)
    rows, matrix = quantize_rows(x), fp8_matrix(randn(16, 32, seed=1))
    assert torch.equal(linear(rows, matrix), linear(x, matrix))
    with pytest.raises(TypeError, match="multiplied by a matrix in fp8, not by a Tensor"):
        linear(rows, randn(16, 32))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_parts_of_rows_are_the_rows(count):
    x = randn(1, count, 32)
    parts = quantize_rows(x).split(32)
    assert [part.shape for part in parts] == [(min(32, count - start), 32) for start in range(0, count, 32)]
    assert all(same(part, piece) for part, piece in zip(parts, x[0].split(32), strict=True))


@pytest.mark.parametrize(
    ("name", "there"),
    [("sm_75", False), ("sm_86", False), ("sm_89", True), ("sm_90", True), ("sm_120", True), ("gfx942", False)],
)
def test_which_processors_multiply_e4m3(name, there):
    assert multiplies_fp8(name) is there
    assert multiplies_fp8("cpu")


def test_the_step_is_the_same_number_everywhere():
    assert torch.tensor(STEP, dtype=torch.float32) * 448 == 1
