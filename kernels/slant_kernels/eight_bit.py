"""Linear layer with 8-bit activations and weights on a GPU: y = x W^T from products of 8-bit numbers.

    x[m, k] ~ x8[m, k] * x_scale[m]     x_scale = max |x[m]| / TOP     one a token, or one for each group of k
    W[n, k] ~ w8[n, k] * w_scale[n]     w_scale = max |W[n]| / TOP     one an output channel
    y[m, n] = x_scale[m] * w_scale[n] * sum of x8[m] * w8[n]

Shapes: x ``[..., K]``, W ``[N, K]``, w8 ``[N, K]``, w_scale fp32 ``[N]`` -> y ``[..., N]`` in the dtype of x. The dtype
of w8 decides: int8 (TOP 127; int32 sums, exact) or float8_e4m3fn (TOP 448; torch's row-wise scaled product, which
applies the scales as it writes). ``eight_bit_dtype`` picks fp8 where the GPU has it, sm_89 and later: that writes bf16
once, while int32 sums are written, read and scaled. int8 rounds finer. The engine does not use this op yet.

Left out: smoothing and rotations, which change the weights. An outlier makes the scale of its whole row coarse; with
``group`` only that of its group, at the cost of one product for each group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import Config, Table, jit, power_of_2, tl

TOP = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_LEAST = 1e-30  # the largest |x| of a row counts as this at least: a row of zeros has a scale
_INT8_ROWS = 17  # the fewest rows of int8 that cuBLAS multiplies
_FP8 = ("sm_89", "sm_90", "sm_100", "sm_120")


def quantize_rows_reference(x: Tensor, dtype: torch.dtype, group: int | None = None) -> tuple[Tensor, Tensor]:
    parts = x.float().unflatten(1, (-1, group or x.shape[1]))
    largest = parts.abs().amax(2, keepdim=True).clamp(min=_LEAST)
    codes = parts * (TOP[dtype] / largest)
    codes = codes.round() if dtype == torch.int8 else codes
    return codes.clamp(-TOP[dtype], TOP[dtype]).to(dtype).flatten(1), largest[..., 0] / TOP[dtype]


# A row of 2560 is 20 elements a thread, one of 9216 is 36 at 8 warps; read once, held in registers.
ROW = Table({("", ""): Config(num_warps=8)})


@jit()
def _quantize_rows_kernel(
    p_x, p_codes, p_scales, TOP: tl.constexpr, LEAST: tl.constexpr, X_ROW: tl.constexpr,
    G: tl.constexpr, W: tl.constexpr, BG: tl.constexpr, BW: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """One row of G groups of W."""
    i_row = tl.program_id(0).to(tl.int64)
    o_g, o_w = tl.arange(0, BG), tl.arange(0, BW)
    o_k, m_k = o_g[:, None] * W + o_w[None], (o_g < G)[:, None] & (o_w < W)[None]
    x = tl.load(p_x + i_row * X_ROW + o_k, mask=m_k, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(x), 1), LEAST)
    codes = x * tl.div_rn(tl.full((BG,), TOP, tl.float32), largest)[:, None]
    if INTEGER:
        codes = codes + 12582912.0 - 12582912.0  # 1.5 * 2**23: rounds to the nearest integer, halves to even
    codes = tl.minimum(tl.maximum(codes, -TOP), TOP)
    tl.store(p_codes + i_row * (G * W) + o_k, codes.to(p_codes.dtype.element_ty), mask=m_k)
    tl.store(p_scales + i_row * G + o_g, tl.div_rn(largest, tl.full((BG,), TOP, tl.float32)), mask=o_g < G)


def eight_bit_dtype(device: torch.device) -> torch.dtype:
    """The 8-bit dtype that is faster on a device."""
    return torch.float8_e4m3fn if launch.target(device) in _FP8 else torch.int8


def eight_bit_weights(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """W ``[N, K]`` -> (w8 ``[N, K]`` int8 or float8_e4m3fn, w_scale fp32 ``[N]``)."""
    codes, scales = quantize_rows(weight, dtype)
    return codes, scales[:, 0]


def quantize_rows(x: Tensor, dtype: torch.dtype, group: int | None = None) -> tuple[Tensor, Tensor]:
    """x ``[M, K]`` -> (codes ``[M, K]`` of dtype int8 or float8_e4m3fn, scales fp32 ``[M, G]``).

    G is K / group, or 1 without a group; raises ValueError if the group does not divide K.
    """
    M, K = x.shape
    width = group or K
    if K % width:
        raise ValueError(f"groups of {group} do not divide rows of {K}")
    if not launch.on_gpu(x):
        return quantize_rows_reference(x, dtype, group)
    x, G = x if x.stride(1) == 1 else x.contiguous(), K // width
    codes = torch.empty(M, K, dtype=torch.int8, device=x.device).view(dtype)
    scales = torch.empty(M, G, dtype=torch.float32, device=x.device)
    launch.launch(
        _quantize_rows_kernel, (M,), ROW.find(x.device),
        x, codes, scales, TOP=TOP[dtype], LEAST=_LEAST, X_ROW=x.stride(0) if M > 1 else K,
        G=G, W=width, BG=power_of_2(G), BW=power_of_2(width), INTEGER=dtype == torch.int8,
    )  # fmt: skip
    return codes, scales


def eight_bit_linear(x: Tensor, w8: Tensor, w_scale: Tensor, group: int | None = None) -> Tensor:
    """``x W^T`` in the dtype of x, with w8 and w_scale from ``eight_bit_weights``; K and N are multiples of 16."""
    N, K = w8.shape
    rows = x.reshape(-1, K)
    codes, scales = quantize_rows(rows, w8.dtype, group)
    parts = zip(codes.split(group or K, 1), w8.split(group or K, 1), scales.split(1, 1), strict=True)
    multiply = _multiply_int8 if w8.dtype == torch.int8 else _multiply_fp8
    products = (multiply(*part, w_scale, x.dtype if group is None else torch.float32) for part in parts)
    y = next(products)
    for product in products:
        y += product
    return y.to(x.dtype).view(*x.shape[:-1], N)


def _multiply_int8(x8: Tensor, w8: Tensor, x_scale: Tensor, w_scale: Tensor, dtype: torch.dtype) -> Tensor:
    if x8.is_cpu:  # fp64 is exact; without VNNI the int8 product adds pairs in int16, which overflows
        sums = (x8.double() @ w8.double().T).float()
    else:
        padded = F.pad(x8, (0, 0, 0, max(0, _INT8_ROWS - len(x8)))).contiguous()
        sums = torch._int_mm(padded, w8.T)[: len(x8)].float()
    return (sums * x_scale * w_scale).to(dtype)


def _multiply_fp8(x8: Tensor, w8: Tensor, x_scale: Tensor, w_scale: Tensor, dtype: torch.dtype) -> Tensor:
    scales = x_scale.contiguous(), w_scale[None].contiguous()  # with scales by rows torch writes bf16 only
    return torch._scaled_mm(x8.contiguous(), w8.T, *scales, out_dtype=torch.bfloat16).to(dtype)
