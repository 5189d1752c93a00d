"""SwiGLU at awkward shapes, against the fp32 reference."""

import torch.nn.functional as F
from ops import assert_bf16, assert_fp32, randn

from slant_kernels import swiglu


def test_swiglu():
    x = randn(3, 65, 2 * 33)
    assert_fp32(swiglu.swiglu(x), swiglu.swiglu_reference(x))
    gate, up = x.bfloat16().chunk(2, dim=-1)
    assert_bf16(swiglu.swiglu(x.bfloat16()), swiglu.swiglu_reference(x.bfloat16()), F.silu(gate) * up)
