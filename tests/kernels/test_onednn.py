"""Matrices in oneDNN's order: the same bits as plain ones, for any number of tokens."""

import pytest
import torch
from ops import assert_bf16, assert_fp32, randn

from slant_kernels.linear import linear, linear_reference
from slant_kernels.onednn import can_reorder, multiply, reorder

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_reorder(torch.bfloat16, CPU), reason="this CPU does not multiply bf16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (65, 31), (48, 80)])
def test_products_are_those_of_the_plain_matrix(inner, outer, dtype):
    weight = (randn(outer, inner, seed=1) / inner**0.5).to(CPU, dtype)
    matrix = reorder(weight)
    assert (matrix.shape, matrix.nbytes) == (weight.shape, weight.nbytes)
    for rows in (1, 3, 130):
        x = randn(rows, inner).to(CPU, dtype)
        y, reference = linear(x, matrix), linear_reference(x, weight)
        assert y.dtype == dtype
        assert torch.equal(y, multiply(x, weight))
        assert torch.equal(y, linear(x, weight))
        if dtype == torch.float32:
            assert_fp32(y, reference)
        else:
            assert_bf16(y, reference, reference.bfloat16())


def test_slices_and_leading_dimensions():
    weight, wide = randn(12, 16).to(CPU).bfloat16(), randn(2, 5, 40, seed=1).to(CPU).bfloat16()
    x = wide[..., 8:24]
    y = linear(x, reorder(weight))
    assert y.shape == (2, 5, 12)
    assert torch.equal(y, linear(x.contiguous(), reorder(weight)))
    assert linear(x[:, :0], reorder(weight)).shape == (2, 0, 12)


def test_other_devices_and_dtypes_are_refused():
    assert not can_reorder(torch.float16, CPU)
    assert not can_reorder(torch.float32, torch.device("cuda"))
    with pytest.raises(ValueError, match=r"oneDNN does not multiply torch\.float16 on this cpu; keep the matrix dense"):
        reorder(torch.ones(2, 2, dtype=torch.float16, device="cpu"))
