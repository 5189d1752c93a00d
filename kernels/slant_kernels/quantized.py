"""Quantized matrices: the layout of codes, scales and zeros, and dequantization.

A matrix W ``[N, K]`` is cut along K into G groups of ``group_size`` (32, 64 or 128; the last one may be shorter):

    W[n, k] = (code[n, k] - 2**(bits - 1) - zeros[g, n]) * scales[g, n]        g = k // group_size

in fp32 and in this order, rounded once to the wanted dtype. Codes are 0 ... 2**bits - 1 with 8, 4, 3 or 2 bits.

scales, zeros   fp16 ``[G, N]``. Group-major, so that a tile of consecutive rows reads one group's values side by side.
                Zeros are hqq's minus 2**(bits - 1): small numbers, which fp16 represents well (around 128 it rounds to
                an eighth of a step).
codes           uint8 ``[N, blocks * bytes]``, each row a sequence of blocks. K is padded to whole blocks with code 0:
                a kernel masks x there, and the group of a padded k may not exist.

A block is made of *runs* of 32 consecutive k. A run lies in one group whatever the group size, and 32 bytes hold the
codes of 1, 2 or 4 runs: a kernel gets whole runs from one load, by a shift and a mask, and no lane needs another lane's
byte. With j = 0 ... 31 the position in a run:

    bits   k a block   bytes   byte j holds
    8      32          32      k = j
    4      64          32      k = j + 32 i           in bits 4 i, 4 i + 1, ...       i = 0, 1
    2      128         32      k = j + 32 i           in bits 2 i, 2 i + 1            i = 0 ... 3
    3      128         48      the lower two bits as for 2 bits, in bytes 0 ... 31; the upper bit of k = j + 32 i in
                               byte 32 + j % 16, bit 4 (j // 16) + i

Three bits in two planes cost 3.0 bits a code and two loads; ten codes in an int32 would cost 3.2 bits, and no group
size is a multiple of ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import H200, Config, Table, cdiv, jit, tl

BITS = (8, 4, 3, 2)
GROUP_SIZES = (32, 64, 128)
RUN = 32
_BLOCK = {8: 32, 4: 64, 3: 128, 2: 128}  # k a block
_ROWS_AT_A_TIME = 1 << 18  # elements; bounds the fp32 temporaries of dequantize


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """codes uint8, scales and zeros fp16 as the header says; ``shape`` is (N, K). Raises ValueError on a mismatch."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        codes, scales = layout(self.shape, self.bits, self.group_size)
        for name, found, shape, dtype in (
            ("codes", self.codes, codes, torch.uint8),
            ("scales", self.scales, scales, torch.float16),
            ("zeros", self.zeros, scales, torch.float16),
        ):
            if found.shape != shape or found.dtype != dtype:
                raise ValueError(f"{name} are {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}")

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.zeros.nbytes


def layout(shape: tuple[int, int], bits: int, group_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of codes and of scales and zeros; raises ValueError for other bits or group sizes."""
    if bits not in BITS or group_size not in GROUP_SIZES:
        raise ValueError(f"{bits} bits in groups of {group_size}: bits are one of {BITS}, groups of {GROUP_SIZES}")
    rows, columns = shape
    blocks = -(-columns // _BLOCK[bits])
    return (rows, blocks * _BLOCK[bits] * bits // 8), (-(-columns // group_size), rows)


def nbytes(shape: tuple[int, int], bits: int, group_size: int) -> int:
    """Bytes of a quantized matrix ``shape``: its padded codes, and a scale and a zero of two bytes for each group."""
    codes, scales = layout(shape, bits, group_size)
    return codes[0] * codes[1] + 2 * 2 * scales[0] * scales[1]


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 ``[N, K]`` -> bytes uint8 ``[N, blocks * bytes]``."""
    block = _BLOCK[bits]
    runs = F.pad(codes, (0, -codes.shape[1] % block)).unflatten(1, (-1, block // RUN, RUN))  # [N, blocks, runs, 32]
    if bits == 3:
        upper = (runs >> 2).unflatten(3, (2, 16)).transpose(2, 3).flatten(2, 3)  # bit 4 (j // 16) + i, byte j % 16
        return torch.cat([_plane(runs & 3, 2), _plane(upper, 1)], dim=2).flatten(1)
    return _plane(runs, bits).flatten(1)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of ``pack``: bytes -> codes uint8 ``[N, columns]``, without the padding."""
    blocks = packed.unflatten(1, (-1, _BLOCK[bits] * bits // 8))
    if bits == 3:
        upper = _fields(blocks[:, :, RUN:], 1).unflatten(2, (2, 4)).transpose(2, 3).flatten(3)
        runs = _fields(blocks[:, :, :RUN], 2) | upper << 2
    else:
        runs = _fields(blocks, bits)
    return runs.flatten(1)[:, :columns]


def _plane(fields: Tensor, width: int) -> Tensor:
    """Fields of ``width`` bits ``[N, blocks, 8 / width, W]`` -> bytes ``[N, blocks, W]``; field 0 is lowest."""
    byte = fields[:, :, 0].clone()
    for index in range(1, fields.shape[2]):
        byte |= fields[:, :, index] << width * index
    return byte


def _fields(byte: Tensor, width: int) -> Tensor:
    return torch.stack([byte >> shift & (1 << width) - 1 for shift in range(0, 8, width)], dim=2)


def dequantize_reference(q: QuantizedMatrix) -> Tensor:
    """fp32 ``[N, K]``, one column at a time, straight from the header."""
    rows, columns = q.shape
    out = torch.empty(rows, columns, dtype=torch.float32, device=q.codes.device)
    block, size = _BLOCK[q.bits], _BLOCK[q.bits] * q.bits // 8
    for k in range(columns):
        (b, inside), g = divmod(k, block), k // q.group_size
        i, j = divmod(inside, RUN)
        byte = q.codes[:, b * size + j]
        if q.bits == 3:
            upper = q.codes[:, b * size + 32 + j % 16] >> 4 * (j // 16) + i & 1
            code = (byte >> 2 * i & 3) + 4 * upper
        else:
            code = byte >> q.bits * i & 2**q.bits - 1
        out[:, k] = (code.float() - 2 ** (q.bits - 1) - q.zeros[g].float()) * q.scales[g].float()
    return out


# Two reads of 8 bytes a thread and, for 4 bits, four writes of 16. A warp takes 64 bytes of codes of each of four rows,
# whole sectors of 32 bytes in every tensor. It is bound by bytes (a 4-bit weight is half a byte read and two written),
# and small programs hide their latency.
DEQUANTIZE = Table(
    {
        ("", ""): Config({"BN": 32, "BB": 2}, num_warps=4),
        ("", "sm_90"): Config({"BN": 16, "BB": 8}, num_warps=8, measured=H200),  # 90 % of the bandwidth; the above 86
    }
)


@jit()
def weights(code, zero, scale, BITS: tl.constexpr):
    """fp32 (code - 2**(BITS - 1) - zero) * scale from a uint8 code.

    Conversions of integers run at an eighth of the speed of additions. 0x6400 | code is the fp16 number 1024 + code
    instead, and the difference to another integer below 2048 is exact.
    """
    number = (code.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - (1024 + 2 ** (BITS - 1))
    return (number.to(tl.float32) - zero) * scale


@jit()
def _dequantize_kernel(
    p_codes, p_scales, p_zeros, p_out,
    N: tl.constexpr, K: tl.constexpr, CODE_ROW: tl.constexpr, SCALE_ROW: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, BN: tl.constexpr, BB: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """BB blocks of BN rows. The tile is [vectors of bytes, rows, BV bytes]; BV weights are 16 bytes of the output, so
    that a thread reads BV bytes and writes each of their fields at once, without exchanging any with another. Triton
    deals the first dimension to neighbouring threads; were that rows, each of them would touch a sector of its own."""
    FIELD: tl.constexpr = 2 if BITS == 3 else BITS
    o_vector = (tl.program_id(0) * BB * 32 // BV + tl.arange(0, BB * 32 // BV))[:, None, None]
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :, None]
    o_v = tl.arange(0, BV)[None, None]
    i_block, j = o_vector // (32 // BV), o_vector % (32 // BV) * BV
    r_n = tl.minimum(o_n, N - 1)
    m_block = i_block * BLOCK < K
    p_code = p_codes + r_n * CODE_ROW + i_block * (BLOCK * BITS // 8)
    byte = tl.load(p_code + (j + o_v), mask=m_block, other=0)
    if BITS == 3:
        upper = tl.load(p_code + 32 + (j % 16 + o_v), mask=m_block, other=0) >> (j // 16 * 4)
    for i in tl.static_range(8 // FIELD):
        k = i_block * BLOCK + 32 * i
        if 32 * i % GROUP == 0:
            p_group = tl.minimum(k // GROUP, (K - 1) // GROUP) * SCALE_ROW + r_n
            scale, zero = tl.load(p_scales + p_group).to(tl.float32), tl.load(p_zeros + p_group).to(tl.float32)
        code = byte >> FIELD * i & 2**FIELD - 1
        if BITS == 3:
            code |= (upper >> i & 1) << 2
        w = weights(code, zero, scale, BITS).to(p_out.dtype.element_ty)
        tl.store(p_out + (o_n * K + k + j + o_v), w, mask=(o_n < N) & (k + j + o_v < K))


def dequantize(q: QuantizedMatrix, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """The matrix ``[N, K]`` in ``dtype``, on the device of the codes; written into ``out`` if that is given.

    Raises ValueError if ``out`` is not a contiguous matrix of that shape, dtype and device.
    """
    if out is None:
        out = torch.empty(q.shape, dtype=dtype, device=q.codes.device)
    if out.shape != q.shape or out.dtype != dtype or out.device != q.codes.device or not out.is_contiguous():
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)} on {out.device} with strides {out.stride()},"
            f" not contiguous {dtype} {list(q.shape)} on {q.codes.device}"
        )
    return (_dequantize_triton if launch.on_gpu(q.codes) else _dequantize_torch)(q, out)


def _dequantize_triton(q: QuantizedMatrix, out: Tensor) -> Tensor:
    (N, K), block = q.shape, _BLOCK[q.bits]
    config = DEQUANTIZE.find(out.device)
    launch.launch(
        _dequantize_kernel, (cdiv(cdiv(K, block), config.blocks["BB"]), cdiv(N, config.blocks["BN"])), config,
        q.codes, q.scales, q.zeros, out, N=N, K=K, CODE_ROW=q.codes.stride(0), SCALE_ROW=q.scales.stride(0),
        BITS=q.bits, GROUP=q.group_size, BLOCK=block, BV=16 // out.element_size(),
    )  # fmt: skip
    return out


def _dequantize_torch(q: QuantizedMatrix, out: Tensor) -> Tensor:
    rows, columns = q.shape
    groups = len(q.scales)
    step = max(1, _ROWS_AT_A_TIME // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        codes = F.pad(unpack(q.codes[part], q.bits, columns), (0, groups * q.group_size - columns))
        w = codes.unflatten(1, (groups, q.group_size)).float()
        w.sub_(2 ** (q.bits - 1)).sub_(q.zeros[:, part].T[..., None].float()).mul_(
            q.scales[:, part].T[..., None].float()
        )
        out[part] = w.flatten(1)[:, :columns]
    return out
