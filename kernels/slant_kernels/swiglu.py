"""SwiGLU on a merged projection: the first half of the last dimension gates the second.

    swiglu([gate, up]) = silu(gate) * up

Shapes: ``[..., 2 I]`` -> ``[..., I]``, same dtype. Shazeer 2020 (arXiv 2002.05202).

One pass moves 6 I bytes a token in bf16, which only an epilogue of the projection could avoid. The kernel and
``swiglu.cpp`` compute in fp32 and round once; the torch path rounds silu(gate) too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch, native
from slant_kernels.fp8 import Fp8Rows, quantize_rows, store_row
from slant_kernels.launch import Config, Table, cdiv, jit, power_of_2, tl


def swiglu_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


# 1024 divides 9216, and at 4 warps is one 16-byte load of gate and one of up a thread.
SWIGLU = Table({("", ""): Config({"BN": 1024}, num_warps=4)})
# A whole row, 9216 of 16384 columns: 18 a thread.
ROW = Table({("", ""): Config(num_warps=16)})


@jit()
def _swiglu_kernel(p_gate_up, p_out, p_scales, I: tl.constexpr, BN: tl.constexpr, FP8: tl.constexpr):  # noqa: E741
    """BN columns of one row; all of them for FP8."""
    i_row = tl.program_id(0).to(tl.int64)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_n = o_n < I
    gate = tl.load(p_gate_up + i_row * 2 * I + o_n, mask=m_n, other=0.0).to(tl.float32)
    up = tl.load(p_gate_up + i_row * 2 * I + I + o_n, mask=m_n, other=0.0).to(tl.float32)
    y = (gate * tl.sigmoid(gate) * up).to(p_gate_up.dtype.element_ty)
    if FP8:
        store_row(p_out + i_row * I + o_n, p_scales + i_row, y.to(tl.float32), m_n)
    else:
        tl.store(p_out + i_row * I + o_n, y, mask=m_n)


NATIVE = native.Op("swiglu", "gate_up out", "rows I")


def swiglu(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` in the dtype of the input; written into ``out``, contiguous, if that is given."""
    columns = gate_up.shape[-1] // 2
    if out is None:
        out = gate_up.new_empty(*gate_up.shape[:-1], columns)
    if launch.on_gpu(gate_up):
        return _swiglu(gate_up.contiguous(), out)
    if native.supports(gate_up, columns):
        NATIVE((gate_up.contiguous(), out), (out.numel() // columns, columns))
        return out
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.mul(F.silu(gate), up, out=out)


def swiglu_fp8(gate_up: Tensor, out: Fp8Rows) -> Fp8Rows:
    """``swiglu`` with its rows in 8 bits, written into ``out``."""
    if not launch.on_gpu(gate_up):
        return quantize_rows(swiglu(gate_up), out)
    columns = gate_up.shape[-1] // 2
    launch.launch(
        _swiglu_kernel, (out.rows, 1), ROW.find(gate_up.device),
        gate_up.contiguous(), out.codes, out.scales, I=columns, BN=power_of_2(columns), FP8=True,
    )  # fmt: skip
    return out


def _swiglu(gate_up: Tensor, out: Tensor) -> Tensor:
    columns, config = out.shape[-1], SWIGLU.find(gate_up.device)
    grid = out.numel() // columns, cdiv(columns, config.blocks["BN"])
    launch.launch(_swiglu_kernel, grid, config, gate_up, out, gate_up, I=columns, FP8=False)
    return out
