"""The linear layer at awkward shapes, against the fp32 reference."""

import pytest
from ops import assert_bf16, assert_fp32, randn

from slant_kernels import linear


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 8, 8), (3, 65, 31), (130, 48, 80)])
def test_linear(rows, inner, outer):
    x, weight = randn(rows, inner), randn(outer, inner, seed=1) / inner**0.5
    assert_fp32(linear.linear(x, weight), linear.linear_reference(x, weight))
    reference = linear.linear_reference(x.bfloat16(), weight.bfloat16())
    assert_bf16(linear.linear(x.bfloat16(), weight.bfloat16()), reference, reference.bfloat16())
