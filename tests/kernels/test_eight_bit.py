"""The 8-bit linear layer: steps as the header defines them, errors within what half steps can add up to."""

import pytest
import torch
from ops import randn

from slant_kernels import eight_bit
from slant_kernels.eight_bit import eight_bit_linear, eight_bit_weights, quantize_rows, quantize_rows_reference

DTYPES = [torch.int8, torch.float8_e4m3fn]


@pytest.fixture(autouse=True)
def fp8(path, request):
    """Skips e4m3 where the GPU lacks it."""
    device = torch.get_default_device()
    fp8 = request.node.callspec.params.get("dtype") == DTYPES[1]
    if path == "triton" and device.type == "cuda" and fp8 and eight_bit.eight_bit_dtype(device) != DTYPES[1]:
        pytest.skip("no fp8")


def error(values, scales, dtype):
    """The most that rounding to a code changes: half a step of int8; of e4m3 a 16th, or half of its least step, 2**-9.

    A part in 100,000 more for the product in fp32 that comes before it.
    """
    if dtype == torch.int8:
        return scales * (0.5 + 127e-5)
    return torch.maximum(values.abs() / 16, scales * 2**-10) + values.abs() * 1e-5


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (5, 208)])
def test_rows(shape, dtype, group):
    x = randn(*shape) * torch.logspace(-3, 3, shape[0], device=torch.get_default_device())[:, None]
    x[0, :16] = 0
    codes, scales = quantize_rows(x, dtype, group)
    assert codes.dtype == dtype
    assert scales.dtype == torch.float32
    assert torch.equal(scales, quantize_rows_reference(x, dtype, group)[1])
    if dtype == torch.int8:
        assert torch.equal(codes, quantize_rows_reference(x, dtype, group)[0])
    steps = scales.repeat_interleave(group or shape[1], 1)
    assert ((codes.float() * steps - x).abs() <= error(x, steps, dtype)).all()
    assert codes[0, :16].float().eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_slice_with_nan_around_it(dtype):
    memory = torch.full((4, 96), torch.nan, dtype=torch.bfloat16, device=torch.get_default_device())
    x = memory[:3, 16:64].copy_(randn(3, 48))
    found, expected = quantize_rows(x, dtype, 16), quantize_rows_reference(x, dtype, 16)
    assert torch.equal(found[0].float(), expected[0].float())
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 32, 64), (17, 48, 128), (40, 16, 96)])
def test_linear(shape, dtype, group):
    """|y - x W^T| <= sum of |dx| |W| + |x| |dW| + |dx| |dW|, and bf16 rounds once, or each group's product."""
    M, N, K = shape
    x, weight = randn(M, K, dtype=torch.bfloat16), randn(N, K, seed=1) / K**0.5
    w8, w_scale = eight_bit_weights(weight, dtype)
    y = eight_bit_linear(x[None], w8, w_scale, group)
    assert y.shape == (1, M, N)
    assert y.dtype == x.dtype
    x, steps = x.float(), quantize_rows_reference(x, dtype, group)[1].repeat_interleave(group or K, 1)
    dx, dw = error(x, steps, dtype), error(weight, w_scale[:, None].expand(-1, K), dtype)
    bound = dx @ weight.abs().T + x.abs() @ dw.T + dx @ dw.T
    bound = bound + (x.abs() @ weight.abs().T + bound) * 2**-8
    difference = (y[0].float() - x @ weight.T).abs()
    assert (difference <= bound).all()
    assert difference.max() > 1e-4  # it is quantized


def test_a_group_keeps_an_outlier_to_itself():
    x, weight = randn(20, 256), randn(32, 256, seed=1)
    x[:, 5] = 1000
    w8, w_scale = eight_bit_weights(weight, torch.int8)
    exact = x @ (w8.float() * w_scale[:, None]).T
    whole, grouped = (eight_bit_linear(x, w8, w_scale, group) - exact for group in (None, 32))
    assert grouped.norm() < whole.norm() / 2


def test_a_group_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="do not divide"):
        quantize_rows(randn(2, 48), torch.int8, 32)


@pytest.mark.parametrize(("target", "dtype"), [("sm_86", DTYPES[0]), ("cpu", DTYPES[0]), ("sm_90", DTYPES[1])])
def test_the_dtype_of_a_device(target, dtype, monkeypatch):
    monkeypatch.setattr("slant_kernels.launch.target", lambda device: target)
    assert eight_bit.eight_bit_dtype(torch.device("cpu")) == dtype
