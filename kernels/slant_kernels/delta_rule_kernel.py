"""The gated delta rule on a GPU: two launches over chunks of 64 tokens. The formulas are in ``delta_rule``.

Everything that does not need the state is made first, for all chunks in parallel: c, and

    M = (I + A)^-1 diag(beta);   P = q k^T * D

Then a serial kernel walks the chunks of one row and value head, with the state of BV columns in registers:

    N = M (v - exp(c) k S);   o = exp(c) q S + P N;   S <- exp(c_last) S + (exp(c_last - c) k)^T N

It holds S, N and o transposed: the left operand of a product is then in the registers where the product before it left
its result, and the right operands q, k, M, P are in shared memory as they were read. M and P have q's dtype, and only
their lower blocks are written. Left out: a single launch that also inverts. The inverse takes longer than a whole step
of the serial kernel, and would be repeated for every block of V.

Sums and the state are fp32. Operands of products have the dtype of q, within the inverse tf32: on random keys that adds
a hundredth to the error of rounding M to bf16, and where all keys are nearly equal half as much again. For fp32 three
products of tf32 make one that is nearly fp32.
"""

import torch
from torch import Tensor

from slant_kernels import launch
from slant_kernels.delta_inputs import even_tokens
from slant_kernels.launch import H200, Config, Table, cdiv, jit, power_of_2, tl

CHUNK = 64
LEAST = -100.0  # a lower g counts as this: exp(-100) is 0 in fp32, and a bounded c keeps its differences exact to 2^-12

# One warp a chunk and head: blocks of 16 x 16 are what one warp multiplies, and no step waits for another warp.
PREPARE = Table(
    {
        ("", ""): Config(num_warps=1),
        # Twelve of them fit on a processor, with a few registers spilled: 9 % less time than nine with none.
        ("", "sm_90"): Config(num_warps=1, registers=168, measured=H200),
        ("fp32", ""): Config(num_warps=1),  # operands take twice the registers
    }
)

# Shared memory holds q, k (16 KB each), M and P (8 KB each) of a chunk, once for each stage in flight.
SERIAL = Table(
    {
        # At 99 KB of shared memory a second set does not fit: 8 warps for the shortest step where programs are few,
        # else two programs an SM that hide each other's reads.
        ("few", ""): Config({"BV": 32}, num_warps=8, num_stages=2),
        ("many", ""): Config({"BV": 32}, num_warps=4, num_stages=1),
        ("few", "sm_80"): Config({"BV": 32}, num_warps=8, num_stages=3),
        # Two programs an SM by registers, and 163 KB hold both twice; at BV = 64 one program would spill.
        ("many", "sm_80"): Config({"BV": 32}, num_warps=4, num_stages=2),
        # Where every program has an SM of its own, the shortest step is that of 32 columns with three chunks ahead.
        ("few", "sm_90"): Config({"BV": 32}, num_warps=8, num_stages=4, measured=H200),
        # wgmma wants 64 rows; 230 registers and 100 KB leave room for two programs an SM.
        ("many", "sm_90"): Config({"BV": 64}, num_warps=4, num_stages=2, measured=H200),
        ("few", "sm_100"): Config({"BV": 64}, num_warps=8, num_stages=2),
        ("many", "sm_100"): Config({"BV": 64}, num_warps=8, num_stages=2),
        ("few", "gfx942"): Config({"BV": 32}, num_warps=4, num_stages=1),
        ("many", "gfx942"): Config({"BV": 32}, num_warps=4, num_stages=1),
        # fp32 operands take twice the registers.
        ("fp32", ""): Config({"BV": 16}, num_warps=8, num_stages=1),
    }
)
FEW = 128  # programs of BV = 32: one for each of some 132 SMs


@jit()
def _gates(p_g, p_beta, p_c, t, i: tl.constexpr, T, before, HV: tl.constexpr, LEAST: tl.constexpr):
    """c and beta of block i, and c after its last token; c is written."""
    o_t = i * 16 + tl.arange(0, 16)
    m_t = t + o_t < T
    g = tl.maximum(tl.load(p_g + (t + o_t) * HV, mask=m_t, other=0.0), LEAST)
    c = before + tl.cumsum(g)
    tl.store(p_c + o_t, c)
    return c, tl.load(p_beta + (t + o_t) * HV, mask=m_t, other=0.0), before + tl.sum(g)


@jit()
def _rows(p_x, t, i: tl.constexpr, T, STRIDE: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """The keys or queries of block i."""
    o_t = tl.arange(0, 16)
    o_k = tl.arange(0, BK)
    p_x += (t + i * 16) * STRIDE
    mask = (o_t < T - t - i * 16)[:, None] & (o_k < K)[None]
    return tl.load(p_x + o_t[:, None] * STRIDE + o_k[None], mask=mask, other=0.0)


@jit()
def _dot(x, y, PRECISION: tl.constexpr):
    return tl.dot(x, y, input_precision=PRECISION)


@jit()
def _decayed(x, k, c_i, c_j, DIAGONAL: tl.constexpr, PRECISION: tl.constexpr):
    """x k^T * D of two blocks, i >= j."""
    d = c_i[:, None] - c_j[None]
    if DIAGONAL:
        o = tl.arange(0, 16)
        d = tl.where(o[:, None] >= o[None], d, float("-inf"))
    return _dot(x, tl.trans(k), PRECISION) * tl.exp(d)


@jit()
def _below(
    p_k, t, i: tl.constexpr, j: tl.constexpr, T, b_i, c_i, c_j,
    KEY: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Block (i, j) of A, i > j."""
    k_i, k_j = _rows(p_k, t, i, T, KEY, K, BK), _rows(p_k, t, j, T, KEY, K, BK)
    return b_i[:, None] * _decayed(k_i, k_j, c_i, c_j, False, PRECISION)


@jit()
def _coupled(A, SIZE: tl.constexpr):
    """Of a 16 x 16 block: what couples two neighbouring diagonal blocks of SIZE within one of twice the size."""
    o = tl.arange(0, 16)
    i, j = o[:, None] // SIZE, o[None] // SIZE
    return tl.where((i == j + 1) & (j % 2 == 0), A, 0.0)


@jit()
def _inverse(A, PRECISION: tl.constexpr):
    """(I + A)^-1 of a strictly lower 16 x 16 block: substitution by blocks of 1, 2, 4 and 8.

    X holds the inverses of the diagonal blocks of one size; two of them and what couples them make one of twice the
    size. All that is multiplied are inverses of blocks, which stay as small as the whole inverse does.
    """
    o = tl.arange(0, 16)
    X = tl.where(o[:, None] == o[None], 1.0, 0.0) - _coupled(A, 1)
    X -= _dot(X, _dot(_coupled(A, 2), X, PRECISION), PRECISION)
    X -= _dot(X, _dot(_coupled(A, 4), X, PRECISION), PRECISION)
    X -= _dot(X, _dot(_coupled(A, 8), X, PRECISION), PRECISION)
    return X


@jit()
def _put(p_x, i: tl.constexpr, j: tl.constexpr, x):
    """Write block (i, j) of a 64 x 64 matrix."""
    o = tl.arange(0, 16)
    tl.store(p_x + (i * 16 + o)[:, None] * 64 + j * 16 + o[None], x.to(p_x.dtype.element_ty))


@jit("T")
def _prepare_kernel(
    p_q, p_k, p_g, p_beta, p_M, p_P, p_c, T,
    Q: tl.constexpr, KEY: tl.constexpr, H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """P of one chunk of one value head, or c and M. Tokens of q and k lie Q and KEY elements apart."""
    i_part, i_h = tl.program_id(0) % 2, tl.program_id(0) // 2
    i_c, i_b = tl.program_id(1), tl.program_id(2)
    i_row = i_b.to(tl.int64) * T
    p_q += i_row * Q + i_h // (HV // H) * K
    p_k += i_row * KEY + i_h // (HV // H) * K
    p_g += i_row * HV + i_h
    p_beta += i_row * HV + i_h
    i_s = (i_b.to(tl.int64) * HV + i_h) * tl.cdiv(T, 64) + i_c
    p_M += i_s * 64 * 64
    p_P += i_s * 64 * 64
    p_c += i_s * 64
    t = i_c * 64

    c0, b0, end = _gates(p_g, p_beta, p_c, t, 0, T, 0.0, HV, LEAST)
    c1, b1, end = _gates(p_g, p_beta, p_c, t, 1, T, end, HV, LEAST)
    c2, b2, end = _gates(p_g, p_beta, p_c, t, 2, T, end, HV, LEAST)
    c3, b3, end = _gates(p_g, p_beta, p_c, t, 3, T, end, HV, LEAST)

    # Keys are read again rather than held: four blocks of them are half the registers.
    c = (c0, c1, c2, c3)
    if i_part == 0:
        for i in tl.static_range(4):
            q = _rows(p_q, t, i, T, Q, K, BK)
            for j in tl.static_range(i + 1):
                _put(p_P, i, j, _decayed(q, _rows(p_k, t, j, T, KEY, K, BK), c[i], c[j], i == j, PRECISION))
    else:
        b = (b0, b1, b2, b3)
        below = tl.arange(0, 16)[:, None] > tl.arange(0, 16)[None]
        X: tl.tuple = ()
        for i in tl.static_range(4):
            k = _rows(p_k, t, i, T, KEY, K, BK)
            A = tl.where(below, b[i][:, None] * _decayed(k, k, c[i], c[i], True, PRECISION), 0.0)
            X += (_inverse(A, PRECISION),)
            _put(p_M, i, i, X[i] * b[i][None])
        X00, X11, X22, X33 = X
        A10 = _below(p_k, t, 1, 0, T, b1, c1, c0, KEY, K, BK, PRECISION)
        X10 = -_dot(X11, _dot(A10, X00, PRECISION), PRECISION)
        _put(p_M, 1, 0, X10 * b0[None])
        A21 = _below(p_k, t, 2, 1, T, b2, c2, c1, KEY, K, BK, PRECISION)
        X21 = -_dot(X22, _dot(A21, X11, PRECISION), PRECISION)
        _put(p_M, 2, 1, X21 * b1[None])
        A20 = _below(p_k, t, 2, 0, T, b2, c2, c0, KEY, K, BK, PRECISION)
        X20 = -_dot(X22, _dot(A20, X00, PRECISION) + _dot(A21, X10, PRECISION), PRECISION)
        _put(p_M, 2, 0, X20 * b0[None])
        A32 = _below(p_k, t, 3, 2, T, b3, c3, c2, KEY, K, BK, PRECISION)
        _put(p_M, 3, 2, -_dot(X33, _dot(A32, X22, PRECISION), PRECISION) * b2[None])
        A31 = _below(p_k, t, 3, 1, T, b3, c3, c1, KEY, K, BK, PRECISION)
        X31 = _dot(A31, X11, PRECISION) + _dot(A32, X21, PRECISION)
        _put(p_M, 3, 1, -_dot(X33, X31, PRECISION) * b1[None])
        A30 = _below(p_k, t, 3, 0, T, b3, c3, c0, KEY, K, BK, PRECISION)
        X30 = _dot(A30, X00, PRECISION) + _dot(A31, X10, PRECISION) + _dot(A32, X20, PRECISION)
        _put(p_M, 3, 0, -_dot(X33, X30, PRECISION) * b0[None])


@jit("T", "state_rows")
def _serial_kernel(
    p_q, p_k, p_v, p_M, p_P, p_c, p_state, p_o, p_final, T, state_rows,
    Q: tl.constexpr, KEY: tl.constexpr, VAL: tl.constexpr, H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, BK: tl.constexpr, STATE: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BV: tl.constexpr,
):  # fmt: skip
    """BV columns of one value head, over all chunks. S, N, o and v are held transposed."""
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    i_v, i_h, i_b = tl.program_id(0) % BLOCKS, tl.program_id(0) // BLOCKS, tl.program_id(1)
    i_row = i_b.to(tl.int64) * T
    i_s = i_b.to(tl.int64) * HV + i_h
    chunks = tl.cdiv(T, 64)
    p_q += i_row * Q + i_h // (HV // H) * K
    p_k += i_row * KEY + i_h // (HV // H) * K
    p_v += i_row * VAL + i_h * V
    p_o += (i_row * HV + i_h) * V
    p_M += i_s * chunks * 64 * 64
    p_P += i_s * chunks * 64 * 64
    p_c += i_s * chunks * 64
    o_v = i_v * BV + tl.arange(0, BV)
    o_k = tl.arange(0, BK)
    o_c = tl.arange(0, 64)
    m_S = (o_v < V)[:, None] & (o_k < K)[None]
    o_S = o_v[:, None] + o_k[None] * V
    S = tl.zeros([BV, BK], tl.float32)
    if STATE:
        S += tl.load(p_state + (i_b * state_rows * HV + i_h).to(tl.int64) * K * V + o_S, mask=m_S, other=0.0)
    m_lower = (o_c // 16)[:, None] >= (o_c // 16)[None]  # the blocks that were written
    o_lower = o_c[:, None] * 64 + o_c[None]
    for i_c in range(chunks):
        o_t = i_c * 64 + o_c
        m_k = (o_t < T)[:, None] & (o_k < K)[None]
        m_v = (o_v < V)[:, None] & (o_t < T)[None]
        k = tl.load(p_k + o_t[:, None] * KEY + o_k[None], mask=m_k, other=0.0)
        M = tl.load(p_M + i_c * 4096 + o_lower, mask=m_lower, other=0.0)
        q = tl.load(p_q + o_t[:, None] * Q + o_k[None], mask=m_k, other=0.0)
        P = tl.load(p_P + i_c * 4096 + o_lower, mask=m_lower, other=0.0)
        v = tl.load(p_v + o_t[None] * VAL + o_v[:, None], mask=m_v, other=0.0)
        c = tl.load(p_c + o_t)
        last = tl.load(p_c + i_c * 64 + 63)
        b_S = S.to(k.dtype)
        N = v - _dot(b_S, tl.trans(k), PRECISION) * tl.exp(c)[None]
        N = _dot(N.to(k.dtype), tl.trans(M), PRECISION)
        o = _dot(b_S, tl.trans(q), PRECISION) * tl.exp(c)[None]
        o = tl.dot(N.to(k.dtype), tl.trans(P), o, input_precision=PRECISION)
        tl.store(p_o + o_t[None] * (HV * V) + o_v[:, None], o.to(p_o.dtype.element_ty), mask=m_v)
        N *= tl.exp(last - c)[None]
        S = tl.dot(N.to(k.dtype), k, S * tl.exp(last), input_precision=PRECISION)
    if KEEP:
        tl.store(p_final + i_s * K * V + o_S, S, mask=m_S)


def delta_rule_chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None, keep_state: bool
) -> tuple[Tensor, Tensor | None]:
    """The outputs in v's dtype, and the final state fp32 if ``keep_state``."""
    q, k, v, g, beta = even_tokens(q), even_tokens(k), even_tokens(v), g.contiguous(), beta.contiguous()
    B, T, H, K = q.shape
    Hv, V = v.shape[2:]
    chunks, BK = cdiv(T, CHUNK), max(16, power_of_2(K))
    M, P = (torch.empty(B, Hv, chunks, CHUNK, CHUNK, dtype=q.dtype, device=q.device) for _ in range(2))
    c = torch.empty(B, Hv, chunks, CHUNK, dtype=torch.float32, device=q.device)
    o = torch.empty(B, T, Hv, V, dtype=v.dtype, device=v.device)
    S = torch.empty(B, Hv, K, V, dtype=torch.float32, device=v.device) if keep_state else c
    # Three products on tensor cores are nearly fp32; fp32 itself would be multiply-adds, but not on AMD.
    fp32, products = q.dtype == torch.float32, "ieee"
    if launch.target(v.device).startswith("sm_"):
        products = "tf32x3" if fp32 else "tf32"
    sizes = {"Q": q.stride(1), "KEY": k.stride(1), "H": H, "HV": Hv, "K": K, "BK": BK, "PRECISION": products}
    launch.launch(
        _prepare_kernel, (2 * Hv, chunks, B), PREPARE.find(q.device, "fp32" if fp32 else ""),
        q, k, g, beta, M, P, c, T, LEAST=LEAST, **sizes,
    )  # fmt: skip

    many = "few" if B * Hv * cdiv(V, 32) <= FEW else "many"
    config = SERIAL.find(q.device, "fp32" if fp32 else many)
    launch.launch(
        _serial_kernel, (Hv * cdiv(V, config.blocks["BV"]), B), config,
        q, k, v, M, P, c, c if state is None else state.contiguous(), o, S,
        T, int(state is not None and len(state) > 1), VAL=v.stride(1), V=V, STATE=state is not None, KEEP=keep_state,
        **sizes,
    )  # fmt: skip
    return o, S if keep_state else None
