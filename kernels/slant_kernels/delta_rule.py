"""The gated delta rule, forward only: a linear-attention state that forgets by g and is corrected by beta.

    S_t = exp(g_t) S_{t-1} + k_t outer beta_t (v_t - (exp(g_t) S_{t-1})^T k_t);   o_t = S_t^T q_t

Shapes: q, k ``[B, T, H, K]``, v ``[B, T, Hv, V]``; g and beta ``[B, T, Hv]``; state ``[1 or B, Hv, K, V]``. Hv is a
multiple of H: consecutive value heads share a key head. q, k and v have one dtype, fp32 or 16 bits wide, and may be
slices of a wider tensor; all else is fp32. Yang et al. 2024 (arXiv 2412.06464).

The chunked form (the same paper, section 3.3) handles up to 64 tokens at a time. With c the cumulated g of a chunk,
D_ij = exp(c_i - c_j) for i >= j, and A_ij = beta_i D_ij (k_i . k_j) for i > j:

    (I + A) [U, W] = [beta v, beta exp(c) k]
    N = U - W S;   o = exp(c) q S + (q k^T * D) N;   S <- exp(c_last) S + (exp(c_last - c) k)^T N

I + A is inverted by substitution, never by Neumann doubling: a text that repeats one word makes all keys equal, and
then the powers of A overflow fp32, while the inverse stays within [-1, 1].

The kernels are in ``delta_rule_kernel``. GPUs without tensor cores in Triton (below sm_80) take the torch path.
"""

import torch
from torch import Tensor

from slant_kernels import launch
from slant_kernels.delta_rule_kernel import CHUNK, LEAST, delta_rule_chunks


def delta_rule_reference(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    B, T, Hv, V = v.shape
    q, k = (x.repeat_interleave(Hv // x.shape[2], dim=2) for x in (q, k))
    S = q.new_zeros(B, Hv, q.shape[3], V) if state is None else state.expand(B, -1, -1, -1).clone()
    o = torch.empty_like(v)
    for t in range(T):
        S = S * g[:, t, :, None, None].exp()
        read = (S * k[:, t, :, :, None]).sum(-2)
        S = S + k[:, t, :, :, None] * (beta[:, t, :, None] * (v[:, t] - read))[:, :, None]
        o[:, t] = (S * q[:, t, :, :, None]).sum(-2)
    return o, S


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None, keep_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Outputs ``[B, T, Hv, V]`` of v's dtype, and the state after the last token, fp32, if ``keep_state``."""
    if launch.on_gpu(v) and launch.target(v.device) not in ("sm_70", "sm_75"):
        return delta_rule_chunks(q, k, v, g, beta, state, keep_state)
    B, T, Hv, V = v.shape
    K, dtype = k.shape[3], v.dtype
    N = -(-T // CHUNK)
    C = -(-T // N)  # equal chunks: 65 tokens become 2 x 33, not 2 x 64

    def chunked(x: Tensor) -> Tensor:
        """``[B, T, H, ...]`` -> ``[N, B Hv, C, ...]``; a token of zeros after the end changes nothing."""
        if N * C > T:
            x = torch.cat([x, x.new_zeros(B, N * C - T, *x.shape[2:])], dim=1)
        x = x.unflatten(1, (N, C)).movedim((1, 3), (0, 2))
        if x.shape[2] < Hv:
            x = x.unsqueeze(3).expand(-1, -1, -1, Hv // x.shape[2], *x.shape[3:]).flatten(2, 3)
        return x.contiguous().flatten(1, 2)

    # Operands of products are rounded to v's dtype. k k^T is fp32: where keys repeat, the inverse magnifies its errors.
    q, k, v, g, beta = (chunked(x) for x in (q, k, v, g, beta))
    c = g.clamp(min=LEAST).cumsum(-1)
    decay = (c[..., :, None] - c[..., None, :]).masked_fill_(_above_diagonal(C, c.device), float("-inf")).exp_()
    attn = (q @ k.mT).mul_(decay.to(dtype))
    k32 = k.float()
    A = (k32 @ k32.mT).mul_(decay).mul_(beta[..., None])
    # Substitution on the identity, then a product: half the time of substitution on the wide right-hand side.
    inverse = torch.linalg.solve_triangular(
        A, torch.eye(C, dtype=A.dtype, device=A.device).expand_as(A), upper=False, unitriangular=True
    )
    grown = c.exp()
    inverse.mul_(beta[..., None, :])
    U = inverse.to(dtype) @ v
    W = inverse.mul_(grown[..., None, :]).to(dtype) @ k
    q = q * grown[..., None].to(dtype)
    kT = (k * (c[..., -1:] - c).exp_()[..., None].to(dtype)).mT

    S = v.new_zeros(B * Hv, K, V, dtype=torch.float32) if state is None else state.expand(B, -1, -1, -1).flatten(0, 1)
    before, new = v.new_empty(N, B * Hv, K, V), torch.empty_like(U)
    for n in range(N):
        before[n] = S
        torch.sub(U[n], W[n] @ before[n], out=new[n])
        if keep_state or n < N - 1:
            S = (S * grown[n, :, -1:, None]).add_(kT[n] @ new[n])
    o = torch.baddbmm(*(x.flatten(0, 1) for x in (q @ before, attn, new)))
    o = o.view(N, B, Hv, C, V).movedim((0, 2), (1, 3)).flatten(1, 2)[:, :T]
    return o, S.view(B, Hv, K, V) if keep_state else None


def _above_diagonal(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)
