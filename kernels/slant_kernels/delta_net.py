"""The recurrent half of a Gated DeltaNet mixer: convolution and gates, then the delta rule.

Shapes: mixed ``[B, T, C]``; a, b ``[B, T, Hv]``; conv_weight, A_log, dt_bias as in ``delta_inputs``; ``state`` is what
a prefix left: the last convolution inputs ``[1 or B, W - 1, C]`` and the recurrent state fp32 ``[1 or B, Hv, K, V]``,
or None for zeros.
Returns o ``[B, T, Hv, V]`` of mixed's dtype and, if asked, the state after the last token of each row.

On a GPU that is three launches. On a CPU it is one pass in fp32, in ``delta_net.cpp``, if ``native`` supports the
shape. Otherwise torch computes one tile of the batch at a time: some tokens of some rows, from the state after the tile
before. The intermediates are many times the input; for one tile they stay in the cache and do not grow with T.
"""

import torch
from torch import Tensor

from slant_kernels import launch, native
from slant_kernels.delta_inputs import delta_inputs
from slant_kernels.delta_rule import CHUNK, delta_rule

TILE = 256  # tokens a tile, over all its rows

State = tuple[Tensor, Tensor]

NATIVE_WIDTH = 4
NATIVE = native.Op(
    "delta_net",
    "mixed a b before conv_weight:fp32 A_log:fp32 dt_bias:fp32 start:fp32 out end:fp32 workspace",
    "B T H Hv K V mixed_row mixed_token a_row a_token b_row b_token before_row start_row",
)


def delta_net(
    mixed: Tensor,
    a: Tensor,
    b: Tensor,
    conv_weight: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    key_heads: int,
    key_dim: int,
    state: State | None,
    keep_state: bool = False,
) -> tuple[Tensor, State | None]:
    """Outputs for every position, and the final state if ``keep_state``."""
    first, S = state or (None, None)
    if launch.on_gpu(mixed):
        inputs = delta_inputs(mixed, a, b, conv_weight, A_log, dt_bias, key_heads, key_dim, first)
        o, S = delta_rule(*inputs, S, keep_state)
        return o, None if S is None else (last_inputs(first, mixed, len(conv_weight)), S)
    B, T, Hv = a.shape
    V = (mixed.shape[2] - 2 * key_heads * key_dim) // Hv
    if len(conv_weight) == NATIVE_WIDTH and native.supports(mixed, key_dim, V):
        o, S = _native_delta_net(mixed, a, b, conv_weight, A_log, dt_bias, key_heads, key_dim, first, S, keep_state)
        return o, None if S is None else (last_inputs(first, mixed, len(conv_weight)), S)
    rows = min(B, TILE // CHUNK)
    tokens = TILE // rows // CHUNK * CHUNK
    out, finals = mixed.new_empty(B, T, Hv, V), []
    for row in range(0, B, rows):
        r = slice(row, row + rows)
        before, recurrent = (part[r] if part is not None and len(part) > 1 else part for part in (first, S))
        for start in range(0, T, tokens):
            t = slice(start, start + tokens)
            x = mixed[r, t]
            inputs = delta_inputs(x, a[r, t], b[r, t], conv_weight, A_log, dt_bias, key_heads, key_dim, before)
            more = keep_state or t.stop < T
            out[r, t], recurrent = delta_rule(*inputs, recurrent, keep_state=more)
            before = last_inputs(before, x, len(conv_weight)) if more else before
        if keep_state:
            finals.append((before, recurrent))
    final = [torch.cat(part) for part in zip(*finals, strict=True)]
    return out, (final[0], final[1]) if keep_state else None


def _native_delta_net(
    mixed: Tensor, a: Tensor, b: Tensor, conv_weight: Tensor, A_log: Tensor, dt_bias: Tensor, H: int, K: int,
    before: Tensor | None, start: Tensor | None, keep_state: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    (B, T, Hv), V = a.shape, (mixed.shape[2] - 2 * H * K) // a.shape[2]
    mixed, a, b = (x if x.stride(2) == 1 else x.contiguous() for x in (mixed, a, b))
    before = None if before is None else before.to(mixed.dtype).contiguous()
    start = None if start is None else start.contiguous()
    out = mixed.new_empty(B, T, Hv, V)
    end = a.new_empty(B, Hv, K, V, dtype=torch.float32) if keep_state else None
    one_row = (0 if x is None or len(x) == 1 else x.stride(0) for x in (before, start))
    strides = *mixed.stride()[:2], *a.stride()[:2], *b.stride()[:2], *one_row
    tensors = mixed, a, b, before, conv_weight.contiguous(), A_log, dt_bias, start, out, end
    NATIVE(tensors, (B, T, H, Hv, K, V, *strides))
    return out, end


def last_inputs(before: Tensor | None, x: Tensor, width: int) -> Tensor:
    """The last ``width`` - 1 inputs after ``before`` ``[1 or B, width - 1, C]``, or zeros, and x ``[B, T, C]``."""
    if before is None:
        before = x.new_zeros(1, width - 1, x.shape[2])
    return torch.cat([before.expand(len(x), -1, -1), x[:, 1 - width :]], dim=1)[:, 1 - width :]
