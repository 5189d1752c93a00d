"""SwiGLU at awkward shapes, against the fp32 reference."""

import pytest
import torch
import torch.nn.functional as F
from ops import assert_bf16, assert_fp32, randn

from slant_kernels import swiglu


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 65, 33), (1, 127, 8), (1, 2, 1024), (2, 1, 1025), (1, 1, 9216)])
def test_swiglu(shape):
    x = randn(*shape[:-1], 2 * shape[-1])
    assert_fp32(swiglu.swiglu(x), swiglu.swiglu_reference(x))
    gate, up = x.bfloat16().chunk(2, dim=-1)
    assert_bf16(swiglu.swiglu(x.bfloat16()), swiglu.swiglu_reference(x.bfloat16()), F.silu(gate) * up)


def test_swiglu_into_rows_of_a_larger_tensor():
    x = randn(5, 34)
    memory = torch.full((7, 17), 7.0, device=x.device)
    assert swiglu.swiglu(x, memory[1:6]).data_ptr() == memory[1].data_ptr()
    assert torch.equal(memory[1:6], swiglu.swiglu(x))
    assert memory[[0, 6]].eq(7).all()


def test_swiglu_of_a_strided_input():
    x = randn(3, 9, 40)[..., 3:37]
    assert_fp32(swiglu.swiglu(x), swiglu.swiglu_reference(x))


def test_swiglu_of_gates_whose_exponential_overflows():
    x = randn(2, 16)
    x[:, :8] *= 100
    out = swiglu.swiglu(x)
    assert out.isfinite().all()
    assert_fp32(out, swiglu.swiglu_reference(x))
