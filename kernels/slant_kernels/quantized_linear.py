"""Linear layer with a quantized weight: y = x W^T, W the matrix of ``quantized`` rounded to the dtype of x.

Shapes: x ``[..., K]`` bf16, fp16 or fp32, W ``[N, K]`` -> ``[..., N]`` in the dtype of x; sums are fp32.

For many tokens no fused kernel beats a dense product, because each tile of tokens converts the whole matrix again. So
there are two paths, chosen by the number of tokens M. Both round the weights alike and differ in the order of sums.

M small   one kernel reads the codes and multiplies. Below some 100 tokens a dense product is bound by the bytes of its
          weights, and 4-bit codes are a quarter of them.
M large   dequantize into a scratch matrix, which all layers share, then a dense product. fp32, the CPU and GPUs on
          which Triton has no matrix unit (sm_75) always take this path.

The kernel computes y^T = W x^T. The left operand of Hopper's wgmma may come from registers, where the converted weights
are; with mma.sync the operand whose rows are divided among the warps is converted only once. A step is two or four runs
of 32 k; a byte that holds several runs is loaded once, and each field multiplies its own slice of x.

A program waits for something in every step, so that a processor needs many programs, and few rows of W make few tiles.
So K is cut into SPLITS parts, whose fp32 sums a second kernel adds in a fixed order, the same in every run. At M = 128
the 13 parts of the down projection are written and read in 34 MB, which stay in L2.
"""

import torch
from torch import Tensor

from slant_kernels import launch
from slant_kernels.launch import H200, Config, Table, cdiv, jit, tl
from slant_kernels.onednn import multiply
from slant_kernels.quantized import QuantizedMatrix, dequantize, dequantize_reference, weights

CLASSES = (16, 64, 128, 256)  # tokens; "more" above


def quantized_linear_reference(x: Tensor, q: QuantizedMatrix) -> Tensor:
    return (x.float().unsqueeze(-2) * dequantize_reference(q).to(x.device, x.dtype).float()).sum(-1)


# The most tokens for the kernel. Reckoned but for sm_90: dequantizing gate_up (118 MB) costs as much as a dense product
# of some 200 tokens, so that a kernel at 0.8 of the dense speed is even at some 900 tokens, one at 0.7 at 500.
FUSED = Table(
    {
        # sm_100: the weights pass through shared memory to the tensor memory; gfx942: 64 KB keep the tiles small
        ("", ""): Config({"M": 256}),
        ("", "sm_75"): Config({"M": 0}),  # no matrix unit in Triton
        ("", "sm_80"): Config({"M": 768}),
        ("", "sm_86"): Config({"M": 512}),  # a dense product is slower for its memory: the detour costs less
        ("", "sm_89"): Config({"M": 768}),
        ("", "sm_90"): Config({"M": 128}, measured=H200),  # at 256 gate_up takes 101 us fused and 67 dequantized
        ("", "sm_120"): Config({"M": 512}),  # as sm_86
    }
)

# Programs to fill the GPU with at M <= 256, by splitting K. On Hopper as many as 132 processors hold at once: a program
# waits more than it computes. A part has 512 k at least, or it would be over before its loads run ahead.
_PROGRAMS = {
    "sm_80": 108,  # 108 processors; 8 warps a program: one each
    "sm_86": 84,  # 84 processors, one each
    "sm_89": 128,  # 128 processors (58 on an L4), one each
    "sm_120": 170,  # 170 processors, one each
    "gfx942": 160,  # half of 304 processors: 15 parts would cost more than they save
}
PROGRAMS = Table(
    {(str(most), ""): Config({"PROGRAMS": count}) for most, count in zip(CLASSES, (1056, 396, 264, 264), strict=True)}
    | {(str(most), sm): Config({"PROGRAMS": count}) for most in CLASSES for sm, count in _PROGRAMS.items()}
    | {("16", "sm_90"): Config({"PROGRAMS": 1056}, measured=H200)}
)

# Rows of W in tiles of wgmma's 64: one warp group, several programs a processor.
_WGMMA = {
    "16": Config({"BN": 64, "BM": 16, "BK": 128}, num_warps=4, num_stages=3, measured=H200),
    "64": Config({"BN": 64, "BM": 64, "BK": 64}, num_warps=4, num_stages=3, measured=H200),
    "128": Config({"BN": 64, "BM": 128, "BK": 64}, num_warps=4, num_stages=3, measured=H200),
    "256": Config({"BN": 64, "BM": 256, "BK": 64}, num_warps=4, num_stages=3),  # FUSED takes no more tokens there
}
# mma.sync: in tiles not wider than high, of 16 rows a warp, Triton gives each warp rows of its own; warps that shared
# rows would convert each of them again. The widest take 96 KB at 8 bits, below the 99 of sm_86, sm_89 and sm_120.
_MMA = {
    "16": Config({"BN": 64, "BM": 16, "BK": 128}, num_warps=4, num_stages=4),  # as above
    "64": Config({"BN": 128, "BM": 64, "BK": 64}, num_warps=8, num_stages=3),  # 25 KB: two programs by registers
    "128": Config({"BN": 128, "BM": 128, "BK": 128}, num_warps=8, num_stages=3),  # one program, two steps ahead
    "256": Config({"BN": 128, "BM": 128, "BK": 128}, num_warps=8, num_stages=3),
    "more": Config({"BN": 128, "BM": 128, "BK": 128}, num_warps=8, num_stages=3),
}
# 64 KB of shared memory; a wave of 64 lanes takes 16 or 32 rows.
_MFMA = {
    "16": Config({"BN": 64, "BM": 16, "BK": 128}, num_warps=4, num_stages=2),
    "64": Config({"BN": 64, "BM": 64, "BK": 64}, num_warps=4, num_stages=2),
    "128": Config({"BN": 128, "BM": 128, "BK": 64}, num_warps=8, num_stages=2),
    "256": Config({"BN": 128, "BM": 128, "BK": 64}, num_warps=8, num_stages=2),  # FUSED takes no more tokens here
}
TILES = Table(
    {(rows, ""): config for rows, config in _WGMMA.items()}
    | {(rows, sm): config for sm in ("sm_80", "sm_86", "sm_89", "sm_120") for rows, config in _MMA.items()}
    | {(rows, "gfx942"): config for rows, config in _MFMA.items()}
)
# Of few tokens, many programs: 16 rows of 18432 sums are 288.
SUM = Table({("", ""): Config({"BD": 1024}, num_warps=4)})


@jit("M")
def _quantized_linear_kernel(
    p_x, p_codes, p_scales, p_zeros, p_out, M,
    N: tl.constexpr, K: tl.constexpr, X_ROW: tl.constexpr, CODE_ROW: tl.constexpr, SCALE_ROW: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """BN rows of W times BM rows of x over one of SPLITS parts of K, into ``[SPLITS, M, N]``; BK is 64 or 128.

    Programs that share weights are neighbours. Rows past N and M repeat the last one and are not stored.
    """
    RUN: tl.constexpr = 32
    FIELD: tl.constexpr = 2 if BITS == 3 else BITS
    FIELDS: tl.constexpr = 8 // FIELD  # runs a byte
    SIZE: tl.constexpr = 48 if BITS == 3 else 32
    STEP: tl.constexpr = BK if BK > RUN * FIELDS else RUN * FIELDS
    STEPS: tl.constexpr = (K + STEP - 1) // STEP
    PART: tl.constexpr = (STEPS + SPLITS - 1) // SPLITS
    i_m, i_n, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_n, o_m, o_j = i_n * BN + tl.arange(0, BN), i_m * BM + tl.arange(0, BM), tl.arange(0, RUN)
    r_n = o_n if N % BN == 0 else tl.minimum(o_n, N - 1)
    r_m = tl.minimum(o_m, M - 1)
    p_code = p_codes + r_n[:, None] * CODE_ROW
    p_xt = p_x + r_m[None] * X_ROW + o_j[:, None]
    acc = tl.zeros((BN, BM), dtype=tl.float32)
    for i_step in range(i_split * PART, tl.minimum((i_split + 1) * PART, STEPS)):
        # Too small for Triton to prefetch: load all of a step at once, to wait once. Past K the last group is read.
        zeros: tl.tuple = ()
        scales: tl.tuple = ()
        for i in tl.static_range((STEP + GROUP - 1) // GROUP):
            p_group = tl.minimum(i_step * STEP // GROUP + i, (K - 1) // GROUP) * SCALE_ROW + r_n
            zeros += (tl.load(p_zeros + p_group),)
            scales += (tl.load(p_scales + p_group),)
        for i in tl.static_range(STEP // RUN):
            k = i_step * STEP + i * RUN
            if i % FIELDS == 0:
                p_block = p_code + k // (RUN * FIELDS) * SIZE
                p_byte, m_byte = p_block + o_j[None], o_j[None] + k < K
                byte = tl.load(p_byte) if K % STEP == 0 else tl.load(p_byte, mask=m_byte, other=0)
                if BITS == 3:
                    upper = tl.load(p_block + 32 + o_j[None] % 16) >> o_j[None] // 16 * 4
            code = byte >> i % FIELDS * FIELD & 2**FIELD - 1
            if BITS == 3:
                code |= (upper >> i % FIELDS & 1) << 2
            zero, scale = zeros[i * RUN // GROUP].to(tl.float32), scales[i * RUN // GROUP].to(tl.float32)
            w = weights(code, zero[:, None], scale[:, None], BITS)
            x = tl.load(p_xt + k) if K % STEP == 0 else tl.load(p_xt + k, mask=o_j[:, None] + k < K, other=0.0)
            acc = tl.dot(w.to(x.dtype), x, acc, input_precision="ieee")
    p_tile = p_out + (i_split * M + o_m)[None] * N + o_n[:, None]
    tl.store(p_tile, acc.to(p_out.dtype.element_ty), mask=(o_m < M)[None] & (o_n < N)[:, None])


@jit("M")
def _sum_kernel(p_parts, p_out, M, N: tl.constexpr, SPLITS: tl.constexpr, BD: tl.constexpr):
    """BD columns of a row of out: the sum of its SPLITS parts, first to last."""
    i_m, o_n = tl.program_id(0), tl.program_id(1) * BD + tl.arange(0, BD)
    acc = tl.zeros((BD,), dtype=tl.float32)
    for i in tl.static_range(SPLITS):
        acc += tl.load(p_parts + (i * M + i_m) * N + o_n, mask=o_n < N, other=0.0)
    tl.store(p_out + i_m * N + o_n, acc.to(p_out.dtype.element_ty), mask=o_n < N)


def quantized_linear(x: Tensor, q: QuantizedMatrix, scratch: Tensor | None = None) -> Tensor:
    """``x W^T`` in the dtype of x.

    scratch is a flat buffer of at least N K elements of the dtype of x, for many tokens; allocated if not given.
    Raises ValueError if x or scratch does not fit the matrix.
    """
    N, K = q.shape
    if x.shape[-1] != K:
        raise ValueError(f"x {list(x.shape)} has rows of {x.shape[-1]} elements, the matrix {[N, K]} of {K}")
    M = x.numel() // K
    if launch.on_gpu(x) and x.dtype != torch.float32 and 0 < M <= FUSED.find(x.device).blocks["M"]:
        return _fused(x.reshape(M, K), q).view(*x.shape[:-1], N)
    if scratch is not None and scratch.numel() < N * K:
        raise ValueError(f"scratch of {scratch.numel()} elements is too small for {N * K} weights")
    out = None if scratch is None else scratch[: N * K].view(N, K)
    return multiply(x, dequantize(q, x.dtype, out))


def _fused(x: Tensor, q: QuantizedMatrix) -> Tensor:
    (M, K), N = x.shape, q.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    tokens = next((str(most) for most in CLASSES if most >= M), "more")
    tile, splits = TILES.find(x.device, tokens), 1
    rows, columns = cdiv(N, tile.blocks["BN"]), cdiv(M, tile.blocks["BM"])
    if CLASSES[-1] >= M:
        splits = max(1, min(PROGRAMS.find(x.device, tokens).blocks["PROGRAMS"] // rows, cdiv(K, 512)))
    out = torch.empty(M, N, dtype=x.dtype, device=x.device)
    parts = torch.empty(splits, M, N, dtype=torch.float32, device=x.device) if splits > 1 else out
    launch.launch(
        _quantized_linear_kernel, (columns, rows, splits), tile,
        x, q.codes, q.scales, q.zeros, parts, M, N=N, K=K, X_ROW=x.stride(0) if M > 1 else K,
        CODE_ROW=q.codes.stride(0), SCALE_ROW=q.scales.stride(0), BITS=q.bits, GROUP=q.group_size, SPLITS=splits,
    )  # fmt: skip
    if splits > 1:
        config = SUM.find(x.device)
        launch.launch(_sum_kernel, (M, cdiv(N, config.blocks["BD"])), config, parts, out, M, N=N, SPLITS=splits)
    return out
