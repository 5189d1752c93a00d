"""RMSNorm in its two conventions at awkward shapes, against the fp32 reference."""

import pytest
import torch
from ops import EPS, assert_bf16, assert_fp32, randn

from slant_kernels import norm


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 129), (1, 65, 256), (1, 2, 2560), (1, 1, 16000)])
def test_rms_norm(shape):
    x, weight = randn(*shape), randn(shape[-1], seed=1)
    assert_fp32(norm.rms_norm(x, weight, EPS), norm.rms_norm_reference(x, weight, EPS))
    half = x.bfloat16()
    reference = norm.rms_norm_reference(half, weight, EPS)
    assert_bf16(norm.rms_norm(half, weight, EPS), reference, reference.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_rms_norm_carries_the_sum(dtype):
    """The stream is the sum rounded to the model's dtype, and what is normalised is that."""
    x, residual, weight = randn(2, 5, 17, dtype=dtype), randn(2, 5, 17, dtype=dtype, seed=1) * 9, randn(17, seed=2)
    out, stream = norm.add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(stream, x + residual)
    assert torch.equal(out, norm.rms_norm(stream, weight, EPS))
    assert torch.equal(norm.add_rms_norm(x, None, weight, EPS)[1], x)


@pytest.mark.parametrize("shape", [(1, 1, 2, 8), (2, 65, 3, 24), (2, 3, 32, 128)])
def test_gated_rms_norm(shape):
    x, z, weight = randn(*shape), randn(*shape, seed=1), randn(shape[-1], seed=2)
    assert_fp32(norm.gated_rms_norm(x, z, weight, EPS), norm.gated_rms_norm_reference(x, z, weight, EPS))
    reference = norm.gated_rms_norm_reference(x, z.bfloat16(), weight, EPS)
    assert_bf16(norm.gated_rms_norm(x, z.bfloat16(), weight, EPS), reference, reference.bfloat16())


def test_gated_rms_norm_reads_z_where_its_projection_left_it():
    x, weight = randn(2, 7, 3, 16), randn(16, seed=1)
    z = randn(2, 7, 5 + 3 * 16, seed=2)[..., 5:].unflatten(-1, (3, 16))
    assert_fp32(norm.gated_rms_norm(x, z, weight, EPS), norm.gated_rms_norm_reference(x, z, weight, EPS))
    x, z = x[:, [4]], z[:, [4]]  # the last position alone
    assert_fp32(norm.gated_rms_norm(x, z, weight, EPS), norm.gated_rms_norm_reference(x, z, weight, EPS))
