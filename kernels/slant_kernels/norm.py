"""RMSNorm in its two Qwen3.5 conventions.

    rms_norm(x)          = x / sqrt(mean(x^2) + eps) * (1 + weight)
    gated_rms_norm(x, z) = x / sqrt(mean(x^2) + eps) * weight * silu(z)

Shapes: x, z ``[..., D]``, weight fp32 ``[D]``. Statistics and products are fp32 whatever the dtype of x.
Zhang and Sennrich 2019 (arXiv 1910.07467); the conventions are those of transformers' Qwen3_5RMSNorm and
Qwen3_5RMSNormGated.

On a GPU a row is read once and held in registers, for D up to some 16,000; on a CPU ``norm.cpp`` keeps it in the cache.
The residual is added in the same pass, because the stream is read and written anyway.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch, native
from slant_kernels.fp8 import Fp8Rows, empty_rows, quantize_rows, store_row
from slant_kernels.launch import H200, Config, Table, cdiv, jit, power_of_2, tl


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + weight.float())


def gated_rms_norm_reference(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, z = x.float(), z.float()
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.float() * z * torch.sigmoid(z)


# One row of 2560 bf16 is 20 elements a thread at 4 warps: enough loads in flight, and several programs an SM.
ROW = Table({("", ""): Config(num_warps=4), ("", "sm_90"): Config(num_warps=8, measured=H200)})
# Heads of 128 are short rows: 16 of them make a program of 2048 elements, 16 a thread.
GATED = Table(
    {
        ("", ""): Config({"BM": 16}, num_warps=4),
        ("", "sm_90"): Config({"BM": 16}, num_warps=8, measured=H200),
    }
)
# All heads of a position, 4096 elements: 16 a thread.
HEADS = Table({("", ""): Config(num_warps=8)})


@jit()
def _rms_norm_kernel(
    p_x, p_residual, p_weight, p_out, p_scales, p_stream, eps,
    D: tl.constexpr, BD: tl.constexpr, ADD: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """One row: stream = x + residual, rounded as it is stored, then normalised."""
    i_row = tl.program_id(0).to(tl.int64) * D
    o_d = tl.arange(0, BD)
    m_d = o_d < D
    x = tl.load(p_x + i_row + o_d, mask=m_d, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(p_residual + i_row + o_d, mask=m_d, other=0.0).to(tl.float32)).to(x.dtype)
    if ADD:
        tl.store(p_stream + i_row + o_d, x, mask=m_d)
    x = x.to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x) / D + eps) * (1 + tl.load(p_weight + o_d, mask=m_d, other=0.0))
    y = y.to(p_x.dtype.element_ty)
    if FP8:
        store_row(p_out + i_row + o_d, p_scales + tl.program_id(0), y.to(tl.float32), m_d)
    else:
        tl.store(p_out + i_row + o_d, y, mask=m_d)


@jit("rows")
def _gated_rms_norm_kernel(
    p_x, p_z, p_weight, p_out, p_scales, rows, z_outer, eps,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """BM rows of x, or for FP8 the H of one position; row r of z lies at (r // H) z_outer + (r % H) D."""
    M: tl.constexpr = H if FP8 else BM
    o_m = tl.program_id(0).to(tl.int64) * M + tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    mask = ((o_m < rows) & (tl.arange(0, BM) < M))[:, None] & (o_d < D)[None]
    o_x = o_m[:, None] * D + o_d[None]
    o_z = (o_m // H * z_outer + o_m % H * D)[:, None] + o_d[None]
    x = tl.load(p_x + o_x, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(p_z + o_z, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(p_weight + o_d, mask=o_d < D, other=0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None] * weight[None] * z * tl.sigmoid(z)
    y = y.to(p_z.dtype.element_ty)
    if FP8:
        store_row(p_out + o_x, p_scales + tl.program_id(0), y.to(tl.float32), mask)
    else:
        tl.store(p_out + o_x, y, mask=mask)


NATIVE = native.Op("norm", "x residual z weight:fp32 out stream", "positions heads D z_stride", "eps")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension; the result has the dtype of x."""
    if launch.on_gpu(x):
        return _add_rms_norm(x, None, weight, eps)[0]
    if native.supports(x, x.shape[-1]):
        return _native_norm(x, None, None, weight, eps)[0]
    return F.rms_norm(x.float(), weight.shape, 1 + weight, eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream, then normalise: ``(rms_norm(x + residual), x + residual)``, both of x's dtype.

    Without a residual the stream starts with x.
    """
    if launch.on_gpu(x):
        return _add_rms_norm(x, residual, weight, eps)
    if native.supports(x, x.shape[-1]):
        return _native_norm(x, residual, None, weight, eps)
    stream = x if residual is None else residual + x
    return rms_norm(stream, weight, eps), stream


def add_rms_norm_fp8(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Fp8Rows, Tensor]:
    """``add_rms_norm`` with the normalised rows in 8 bits."""
    if launch.on_gpu(x):
        out = empty_rows(x.shape, x)
        return out, _add_rms_norm(x, residual, weight, eps, out)[1]
    y, stream = add_rms_norm(x, residual, weight, eps)
    return quantize_rows(y), stream


def _add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, rows: Fp8Rows | None = None
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    D = x.shape[-1]
    add = residual is not None
    out = torch.empty_like(x) if rows is None else rows.codes
    stream = torch.empty_like(x) if add else x
    residual = residual.contiguous() if residual is not None else x
    launch.launch(
        _rms_norm_kernel, (x.numel() // D,), ROW.find(x.device),
        x, residual, weight, out, weight if rows is None else rows.scales, stream, eps,
        D=D, BD=power_of_2(D), ADD=add, FP8=rows is not None,
    )  # fmt: skip
    return out, stream


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x, then multiply by weight and silu(z); the result has the dtype of z.

    z may be a slice of a wider projection: ``[B, T, H, D]`` whose heads are contiguous.
    """
    if launch.on_gpu(x):
        out = torch.empty(x.shape, dtype=z.dtype, device=x.device)
        _gated_rms_norm(x.contiguous(), z, weight, eps, out)
        return out
    if x.dtype == z.dtype and native.supports(x, x.shape[-1]):
        return _native_norm(x, None, z, weight, eps)[0]
    return F.rms_norm(x.float(), weight.shape, weight, eps).mul_(F.silu(z.float())).to(z.dtype)


def gated_rms_norm_fp8(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Fp8Rows:
    """``gated_rms_norm`` with the heads of a position ``[..., H, D]`` as one row of H D in 8 bits."""
    if not launch.on_gpu(x):
        return quantize_rows(gated_rms_norm(x, z, weight, eps).flatten(-2))
    rows = empty_rows((*x.shape[:-2], x.shape[-2] * x.shape[-1]), z)
    _gated_rms_norm(x.contiguous(), z, weight, eps, rows)
    return rows


def _native_norm(
    x: Tensor, residual: Tensor | None, z: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The norm of x or of x + residual, gated by z if given; and the residual stream."""
    x, D = x.contiguous(), x.shape[-1]
    residual = None if residual is None else residual.contiguous()
    out, stream = torch.empty_like(x), x if residual is None else torch.empty_like(x)
    z = None if z is None else _positions(z)
    heads, z_stride = (1, 0) if z is None else (z.shape[1], z.stride(0))
    NATIVE((x, residual, z, weight, out, stream), (x.numel() // D // heads, heads, D, z_stride), eps)
    return out, stream


def _gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float, out: Tensor | Fp8Rows) -> None:
    z = _positions(z)
    H, D = z.shape[1:]
    count, fp8 = x.numel() // D, isinstance(out, Fp8Rows)
    config = HEADS.find(x.device) if fp8 else GATED.find(x.device)
    blocks = {"BM": power_of_2(H)} if fp8 else {}
    places = (out.codes, out.scales) if isinstance(out, Fp8Rows) else (out, weight)
    launch.launch(
        _gated_rms_norm_kernel, (count // H if fp8 else cdiv(count, config.blocks["BM"]),), config,
        x, z, weight, *places, count, z.stride(0), eps, H=H, D=D, BD=power_of_2(D), FP8=fp8, **blocks,
    )  # fmt: skip


def _positions(z: Tensor) -> Tensor:
    """``[..., H, D]`` -> ``[P, H, D]`` with the heads of a position contiguous; a view where possible."""
    H, D = z.shape[-2:]
    return z.reshape(-1, H, D) if z.stride(-2) == D and z.stride(-1) == 1 else z.contiguous().view(-1, H, D)
