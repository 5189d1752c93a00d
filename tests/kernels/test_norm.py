"""RMSNorm in its two conventions at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, assert_bf16, assert_fp32, randn

from slant_kernels import norm


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 129), (1, 65, 256)])
def test_rms_norm(shape):
    x, weight = randn(*shape), randn(shape[-1], seed=1)
    assert_fp32(norm.rms_norm(x, weight, EPS), norm.rms_norm_reference(x, weight, EPS))
    half = x.bfloat16()
    reference = norm.rms_norm_reference(half, weight, EPS)
    assert_bf16(norm.rms_norm(half, weight, EPS), reference, reference.bfloat16())


def test_add_rms_norm_carries_the_sum():
    x, residual, weight = randn(2, 5, 16), randn(2, 5, 16, seed=1), randn(16, seed=2)
    out, stream = norm.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(stream, x + residual)
    assert_fp32(out, norm.rms_norm_reference(x + residual, weight, EPS))
    assert torch.equal(norm.add_rms_norm(x, None, weight, EPS)[1], x)


@pytest.mark.parametrize("shape", [(1, 1, 2, 8), (2, 65, 3, 24)])
def test_gated_rms_norm(shape):
    x, z, weight = randn(*shape), randn(*shape, seed=1), randn(shape[-1], seed=2)
    assert_fp32(norm.gated_rms_norm(x, z, weight, EPS), norm.gated_rms_norm_reference(x, z, weight, EPS))
    reference = norm.gated_rms_norm_reference(x, z.bfloat16(), weight, EPS)
    assert_bf16(norm.gated_rms_norm(x, z.bfloat16(), weight, EPS), reference, reference.bfloat16())
