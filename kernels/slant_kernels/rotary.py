"""Around attention: q/k norm, partial rotary embedding, the layout, and the output gate.

    norm_rotary: y = rms_norm(x) per head; the first R of its D dimensions are rotated by their position,
                 (y1, y2) -> (y1 cos - y2 sin, y2 cos + y1 sin) with y1, y2 the halves of those R
    keys_values: norm_rotary of the keys, the values as they are, each behind those of a prefix
    gate_heads:  y * sigmoid(gate)

Shapes: x ``[B, T, H, D]`` -> ``[B, H, T, D]`` for attention, and back in ``gate_heads``; cos, sin fp32 ``[T, R / 2]``
or ``[B, T, R / 2]``. Su et al. 2021 (arXiv 2104.09864). With text alone Qwen's three position axes are equal, so
the plain form is exact.

Each is one pass over what it reads and writes; x and gates are read where the projection left them. The two halves of R
and the rest of D are separate tiles, so the partner of an element is in the same thread and nothing is read twice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.fp8 import Fp8Rows, empty_rows, quantize_rows, store_row
from slant_kernels.launch import Config, Table, cdiv, jit, power_of_2, tl
from slant_kernels.norm import rms_norm, rms_norm_reference


def rotary_tables(positions: int, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32 ``[positions, rotary_dim / 2]``, of position * theta^(-2 i / rotary_dim)."""
    inverse = theta ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu") / rotary_dim)
    angle = torch.arange(positions, dtype=torch.float32, device="cpu")[:, None] * inverse
    return angle.cos(), angle.sin()


def norm_rotary_reference(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    y = rms_norm_reference(x, weight, eps).transpose(1, 2)
    half = cos.shape[-1]
    # Each pair is a complex number, multiplied by e^(i angle).
    pairs = torch.complex(y[..., :half], y[..., half : 2 * half])
    pairs = pairs * torch.complex(cos.float(), sin.float()).view(-1, 1, *cos.shape[-2:])
    return torch.cat([pairs.real, pairs.imag, y[..., 2 * half :]], dim=-1)


def gate_heads_reference(x: Tensor, gate: Tensor) -> Tensor:
    return (x.float().transpose(1, 2) / (1 + torch.exp(-gate.float()))).flatten(2)


# A head of 256 bf16 is 16 bytes a lane of one warp. Two heads a warp take 64 registers a thread, so that eight programs
# share a processor; four would keep no more loads in flight.
ROTARY = Table({("", ""): Config({"BM": 8}, num_warps=4)})
GATE = Table({("", ""): Config({"BM": 8}, num_warps=4)})
# All heads of a position, 4096 elements: 16 a thread.
HEADS = Table({("", ""): Config(num_warps=8)})


@jit()
def _rotate(
    p_x, p_y, p_weight, p_cos, p_sin, m_normed, m_x, m_y, eps,
    D: tl.constexpr, R2: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Norm and rotate the rows in m_normed, copy the others; what m_x leaves out is zeros. Rows are pointers."""
    o_r, o_d = tl.arange(0, BR)[None], tl.arange(0, BD)[None]
    m_r, m_d = o_r < R2, (o_d >= 2 * R2) & (o_d < D)
    x1 = tl.load(p_x + o_r, mask=m_x & m_r, other=0.0).to(tl.float32)
    x2 = tl.load(p_x + R2 + o_r, mask=m_x & m_r, other=0.0).to(tl.float32)
    x3 = tl.load(p_x + o_d, mask=m_x & m_d, other=0.0).to(tl.float32)
    cos = tl.load(p_cos + o_r, mask=m_normed & m_r, other=0.0)
    sin = tl.load(p_sin + o_r, mask=m_normed & m_r, other=0.0)
    scale = tl.rsqrt((tl.sum(x1 * x1 + x2 * x2, 1) + tl.sum(x3 * x3, 1)) / D + eps)[:, None]
    y1 = x1 * scale * (1 + tl.load(p_weight + o_r, mask=m_r, other=0.0))
    y2 = x2 * scale * (1 + tl.load(p_weight + R2 + o_r, mask=m_r, other=0.0))
    y3 = x3 * scale * (1 + tl.load(p_weight + o_d, mask=m_d, other=0.0))
    dtype = p_y.dtype.element_ty
    tl.store(p_y + o_r, tl.where(m_normed, y1 * cos - y2 * sin, x1).to(dtype), mask=m_y & m_r)
    tl.store(p_y + R2 + o_r, tl.where(m_normed, y2 * cos + y1 * sin, x2).to(dtype), mask=m_y & m_r)
    tl.store(p_y + o_d, tl.where(m_normed, y3, x3).to(dtype), mask=m_y & m_d)


@jit("T", "P", "T_tables")
def _norm_rotary_kernel(
    p_x, p_y, p_weight, p_cos, p_sin, T, P, T_tables, eps,
    H: tl.constexpr, X_T: tl.constexpr, X_H: tl.constexpr,
    D: tl.constexpr, R2: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """BM rows (position, head) of one text; the first P positions are zeros."""
    i_b = tl.program_id(1).to(tl.int64)
    o_m = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    o_s, o_h = o_m // H, o_m % H
    m_y = o_s < P + T
    m_x = m_y & (o_s >= P)
    o_tables = (i_b * T_tables + o_s - P) * R2
    _rotate(
        p_x + i_b * T * X_T + (o_s - P) * X_T + o_h * X_H, p_y + i_b * H * (P + T) * D + (o_h * (P + T) + o_s) * D,
        p_weight, p_cos + o_tables, p_sin + o_tables, m_x, m_x, m_y, eps, D, R2, BD, BR,
    )  # fmt: skip


@jit("T", "P", "T_tables")
def _keys_values_kernel(
    p_kv, p_k_before, p_v_before, p_k, p_v, p_weight, p_cos, p_sin, T, P, T_tables, eps,
    G: tl.constexpr, X_T: tl.constexpr,
    D: tl.constexpr, R2: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """BM rows (position, head) of the keys or values of one text or, in the first programs, of the prefix."""
    i_b, i_v = (tl.program_id(1) // 2).to(tl.int64), tl.program_id(1) % 2
    i_m = tl.program_id(0) - tl.cdiv(P * G, BM)
    p_x, p_y = p_k_before, p_k
    if i_v == 1:
        p_x, p_y = p_v_before, p_v
    # Strides of x count heads of D, so that addresses are known to be aligned.
    start, length, normed, x_t, x_g = 0, P, 0, 1, P
    if i_m >= 0:
        p_x, start, length, normed, x_t, x_g = p_kv + i_b * T * X_T + i_v * G * D, P, T, T * (1 - i_v), X_T // D, 1
    else:
        i_m = tl.program_id(0)
    o_m = (i_m * BM + tl.arange(0, BM))[:, None]
    o_t, o_g = o_m // G, o_m % G
    mask = o_t < length
    o_tables = (i_b * T_tables + o_t) * R2
    _rotate(
        p_x + (o_t * x_t + o_g * x_g) * D, p_y + i_b * G * (P + T) * D + (o_g * (P + T) + start + o_t) * D,
        p_weight, p_cos + o_tables, p_sin + o_tables, o_t < normed, mask, mask, eps, D, R2, BD, BR,
    )  # fmt: skip


@jit("T", "x_outer", "x_h", "x_t")
def _gate_heads_kernel(
    p_x, p_gate, p_y, p_scales, T, x_outer, x_h, x_t,
    H: tl.constexpr, G_T: tl.constexpr, G_H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    FP8: tl.constexpr,
):  # fmt: skip
    """BM rows (position, head) of one text, or for FP8 the H of one position; the strides of x count heads of D."""
    M: tl.constexpr = H if FP8 else BM
    i_b = tl.program_id(1).to(tl.int64)
    o_m = (tl.program_id(0) * M + tl.arange(0, BM))[:, None]
    o_t, o_h, o_d = o_m // H, o_m % H, tl.arange(0, BD)[None]
    mask = (o_t < T) & (tl.arange(0, BM) < M)[:, None] & (o_d < D)
    x = tl.load(p_x + i_b * x_outer * D + (o_h * x_h + o_t * x_t) * D + o_d, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(p_gate + i_b * T * G_T + o_t * G_T + o_h * G_H + o_d, mask=mask, other=0.0).to(tl.float32)
    y = (x * tl.sigmoid(gate)).to(p_x.dtype.element_ty)
    p_y += i_b * T * H * D
    if FP8:
        store_row(p_y + o_m * D + o_d, p_scales + i_b * T + tl.program_id(0), y.to(tl.float32), mask)
    else:
        tl.store(p_y + o_m * D + o_d, y, mask=mask)


def norm_rotary(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, before: int = 0) -> Tensor:
    """Norm with (1 + weight), rotate, and put heads first: ``[B, H, before + T, D]``, the dtype of x.

    The first ``before`` positions are zeros; see causal_attention.
    """
    if launch.on_gpu(x):
        return _norm_rotary(x, weight, cos.contiguous(), sin.contiguous(), eps, before)
    y = rms_norm(x.float(), weight, eps).transpose(1, 2)
    half = cos.shape[-1]
    cos, sin = (table.view(-1, 1, *table.shape[-2:]) for table in (cos, sin))
    y1, y2 = y[..., :half], y[..., half : 2 * half]
    y = torch.cat([y1 * cos - y2 * sin, y2 * cos + y1 * sin, y[..., 2 * half :]], dim=-1).to(x.dtype)
    return F.pad(y, (0, 0, before, 0)) if before else y


def _norm_rotary(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, P: int) -> Tensor:
    x, x_t = _positions(x)
    (B, T, H, D), R2, config = x.shape, cos.shape[-1], ROTARY.find(x.device)
    y = x.new_empty(B, H, P + T, D)
    launch.launch(
        _norm_rotary_kernel, (cdiv((P + T) * H, config.blocks["BM"]), B), config,
        x, y, weight, cos, sin, T, P, T if cos.dim() == 3 else 0, eps,
        H=H, X_T=x_t, X_H=x.stride(2), D=D, R2=R2, BD=power_of_2(D), BR=power_of_2(R2),
    )  # fmt: skip
    return y


def keys_values(
    kv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, before: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values for attention, each ``[B, G, P + T, D]``, from their projection kv ``[B, T, 2, G, D]``.

    ``before`` is what this returned for a prefix that all rows share: keys and values ``[1, G, P, D]``.
    """
    if launch.on_gpu(kv):
        return _keys_values(kv, weight, cos.contiguous(), sin.contiguous(), eps, before)
    new, v = kv.unbind(2)
    k, v = norm_rotary(new, weight, cos, sin, eps), v.transpose(1, 2)
    if before is None:
        return k, v
    k, v = (torch.cat([old.expand(len(kv), -1, -1, -1), x], dim=2) for old, x in zip(before, (k, v), strict=True))
    return k, v


def _keys_values(
    kv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, before: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    kv, x_t = _positions(kv.flatten(2, 3))
    (B, T, G, D), R2, config = kv.shape, cos.shape[-1], ROTARY.find(kv.device)
    G, BM = G // 2, config.blocks["BM"]
    P = 0 if before is None else before[0].shape[2]
    k, v = kv.new_empty(B, G, P + T, D), kv.new_empty(B, G, P + T, D)
    k_before, v_before = (k, v) if before is None else (before[0].contiguous(), before[1].contiguous())
    launch.launch(
        _keys_values_kernel, (cdiv(P * G, BM) + cdiv(T * G, BM), 2 * B), config,
        kv, k_before, v_before, k, v, weight, cos, sin, T, P, T if cos.dim() == 3 else 0, eps,
        G=G, X_T=x_t, D=D, R2=R2, BD=power_of_2(D), BR=power_of_2(R2),
    )  # fmt: skip
    return k, v


def gate_heads(x: Tensor, gate: Tensor) -> Tensor:
    """x ``[B, H, T, D]`` times sigmoid of gate ``[B, T, H, D]`` -> ``[B, T, H D]``, the dtype of x."""
    if not launch.on_gpu(x):
        return (x.transpose(1, 2) * torch.sigmoid(gate)).flatten(2)
    y = x.new_empty(*gate.shape[:2], gate.shape[2] * gate.shape[3])
    _gate_heads(x, gate, y)
    return y


def gate_heads_fp8(x: Tensor, gate: Tensor) -> Fp8Rows:
    """``gate_heads`` with its rows in 8 bits."""
    if not launch.on_gpu(x):
        return quantize_rows(gate_heads(x, gate))
    rows = empty_rows((*gate.shape[:2], gate.shape[2] * gate.shape[3]), x)
    _gate_heads(x, gate, rows)
    return rows


def _gate_heads(x: Tensor, gate: Tensor, out: Tensor | Fp8Rows) -> None:
    gate, gate_t = _positions(gate)
    (B, T, H, D), fp8 = gate.shape, isinstance(out, Fp8Rows)
    config = HEADS.find(gate.device) if fp8 else GATE.find(gate.device)
    blocks = {"BM": power_of_2(H)} if fp8 else {}
    places = (out.codes, out.scales) if isinstance(out, Fp8Rows) else (out, x)
    if x.stride(3) != 1 or any(stride % D for stride in x.stride()[:3]):
        x = x.contiguous()
    outer, x_h, x_t = (stride // D for stride in x.stride()[:3])
    launch.launch(
        _gate_heads_kernel, (T if fp8 else cdiv(T * H, config.blocks["BM"]), B), config,
        x, gate, *places, T, outer, x_h, x_t,
        H=H, G_T=gate_t, G_H=gate.stride(2), D=D, BD=power_of_2(D), FP8=fp8, **blocks,
    )  # fmt: skip


def _positions(x: Tensor) -> tuple[Tensor, int]:
    """x ``[B, T, H, D]`` and the distance of its positions, a multiple of D; copied if they are not evenly spaced."""
    B, T, _, D = x.shape
    step = x.stride(1) if T > 1 else x.stride(0)
    if x.stride(3) == 1 and step % D == 0 and (B == 1 or x.stride(0) == T * step):
        return x, step
    return x.contiguous(), x.shape[2] * D
