"""Tensors of more than 2^31 elements at the 4B shape: the last text of a batch answers as it does alone.

An offset that passes 2^31 in 32 bits reads or writes elsewhere. Each op has a batch whose largest tensor is beyond,
made as the model gives it; the fused product of quantized matrices takes too few tokens for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu.case import Draw
from gpu.correct_ops import config_of
from gpu.device import tensors
from gpu.findings import Check, Finding, Place, distances, worst
from gpu.kernel_cases import EPS, at_shape
from slant.model.config import ModelConfig
from slant_kernels import delta_rule, fp8, rotary

BEYOND = 1 << 31
T = 8257  # tokens a text
ALIKE = 2**-8  # of the norm: other programs may add in another order, a wrong offset is another number


def checks(place: Place) -> list[Check]:
    """The fewest texts with which ``width`` elements a token pass 2^31."""
    c, tokens = config_of(place), 12 if place.dry else T
    heads = c.num_attention_heads * c.head_dim
    widths = {
        "swiglu": 2 * c.intermediate_size,
        "add_rms_norm": c.hidden_size,
        "rms_norm": c.hidden_size,
        "gated_rms_norm": c.value_dim,
        "embedding": c.hidden_size,
        "norm_rotary": heads,
        "gate_heads": heads,
        "keys_values": 2 * heads,  # its input only
        "delta_inputs": c.conv_dim,
        "causal_attention": heads,
        "last_attention": c.num_key_value_heads * c.head_dim,
    }

    def texts(width: int) -> int:
        return 3 if place.dry else BEYOND // (width * tokens) + 2

    found = [
        Check(op, f"{texts(width)} x {tokens}", "bf16", partial(run, place, at_shape(c, texts(width), tokens)[op]))
        for op, width in widths.items()
    ]
    own: tuple[tuple[str, int, Callable[..., Any], Callable[..., Any]], ...] = (
        ("keys_values, contiguous", c.num_key_value_heads * c.head_dim, rotary.keys_values, keys_values),
        ("delta_rule", c.linear_num_value_heads * delta_rule.CHUNK, delta_rule.delta_rule, rule),
        ("quantize_rows", c.intermediate_size, in_rows, rows),
    )
    for name, width, call, make in own:
        if name == "quantize_rows" and not fp8.multiplies_fp8(place.target):
            continue
        B = texts(width)
        found.append(
            Check(name, f"{B} x {tokens}", "bf16", partial(alone, place, call, partial(make, c, B, tokens), B))
        )
    return found


def run(place: Place, case: Any) -> Iterable[Finding]:
    B = int(case.label.split()[0])
    return alone(place, case.run, lambda on: case.make(on.device), B)


def alone(place: Place, call: Callable[..., Any], make: Callable[[Draw], Any], B: int) -> Iterable[Finding]:
    torch.manual_seed(0)
    arguments = make(Draw(place.device))
    with place.kernels():
        whole = [x[-1:].clone() for x in tensors(call(*arguments)) if len(x) == B]
    last = tuple(x[-1:].clone() if isinstance(x, Tensor) and x.dim() > 1 and len(x) == B else x for x in arguments)
    last = tuple(x[-1:] if isinstance(x, Tensor) and x.dim() == 1 and x.dtype == torch.int64 else x for x in last)
    with place.kernels():
        single = list(tensors(call(*last)))
    if not whole:
        raise ValueError("no result has a row a text")
    return worst(
        Finding(distances(ours, wanted)[0], ALIKE, f"result {index}")
        for index, (ours, wanted) in enumerate(zip(whole, single, strict=True))
    )


def keys_values(c: ModelConfig, B: int, tokens: int, on: Draw) -> tuple[Any, ...]:
    G, D, R = c.num_key_value_heads, c.head_dim, c.rotary_dim
    kv = on.normal(B, tokens, 2, G, D)
    return kv, on.normal(D, dtype=torch.float32), on.uniform(tokens, R // 2), on.uniform(tokens, R // 2), EPS


def rule(c: ModelConfig, B: int, tokens: int, on: Draw) -> tuple[Any, ...]:
    """Keys of about unit length, without fp32 copies, which would not fit."""
    H, K, Hv, V = c.linear_num_key_heads, c.linear_key_head_dim, c.linear_num_value_heads, c.linear_value_head_dim
    q, k, v = on.normal(B, tokens, c.conv_dim).mul_(K**-0.5).split([H * K, H * K, Hv * V], dim=2)
    heads = q.unflatten(2, (H, K)), k.unflatten(2, (H, K)), v.unflatten(2, (Hv, V))
    return *heads, -on.uniform(B, tokens, Hv), 0.5 * on.uniform(B, tokens, Hv)


def rows(c: ModelConfig, B: int, tokens: int, on: Draw) -> tuple[Any, ...]:
    return (on.normal(B, tokens, c.intermediate_size),)


def in_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales a text."""
    found = fp8.quantize_rows(x)
    codes, scales = (part[: found.rows].view(*x.shape[:2], -1) for part in (found.codes, found.scales))
    return codes, scales
