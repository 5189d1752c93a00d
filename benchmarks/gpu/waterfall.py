"""Where the time of one batch goes: the kernels of a profile by op, each op beside the least time it could take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpu.device import Kernel, Limits
from gpu.kernel_cases import cases
from gpu.linear_cases import matrices
from slant.artifact.recipe import Recipe
from slant.model.config import ModelConfig
from slant_kernels import quantized

LINEAR = "linear"
# The first pattern that is found in a kernel's name says whose it is.
OWNERS = (
    (r"^_embedding_kernel", "embedding"),
    (r"^_rms_norm_kernel", "add_rms_norm"),
    (r"^_gated_rms_norm_kernel", "gated_rms_norm"),
    (r"^_delta_inputs_kernel", "delta_inputs"),
    (r"^_(prepare|serial)_kernel", "delta_rule"),
    (r"^_norm_rotary_kernel", "norm_rotary"),
    (r"^_keys_values_kernel", "keys_values"),
    (r"^_gate_heads_kernel", "gate_heads"),
    (r"^_swiglu_kernel", "swiglu"),
    (r"^_(last_attention|merge)_kernel", "last_attention"),
    (r"^_digit_head_kernel", "digit_head"),
    (r"^_(quantized_linear|sum|dequantize)_kernel", LINEAR),
    (r"(?i)flash|fmha|sdpa|attention", "causal_attention"),
    (r"(?i)gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|wgmma|gemvx|^Cijk", LINEAR),
)
OTHER = "other"


@dataclass(frozen=True)
class Share:
    """One op's part of a batch: seconds measured, and the sum over its calls of the least that each could take."""

    op: str
    calls: int
    seconds: float
    limit: float
    names: tuple[str, ...]


def waterfall(
    kernels: Iterable[Kernel], config: ModelConfig, rows: int, length: int, limits: Limits, recipe: Recipe | None
) -> list[Share]:
    """The shares of a batch of ``rows`` texts of ``length`` tokens after the prefix, the largest first."""
    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        found.setdefault(owner(kernel.name), []).append(kernel)
    least = floors(config, rows, length, limits, recipe)
    shares = []
    for op in least.keys() | found.keys():
        mine = sorted(found.get(op, []), key=lambda kernel: -kernel.seconds)
        names = tuple(dict.fromkeys(kernel.name[:80] for kernel in mine))[:3]
        seconds, calls = sum(kernel.seconds for kernel in mine), sum(kernel.calls for kernel in mine)
        shares.append(Share(op, calls, seconds, least.get(op, 0.0), names))
    return sorted(shares, key=lambda share: (-share.seconds, share.op))


def owner(kernel: str) -> str:
    """The op that a kernel belongs to, by its name."""
    return next((op for pattern, op in OWNERS if re.search(pattern, kernel)), OTHER)


def floors(c: ModelConfig, rows: int, length: int, limits: Limits, recipe: Recipe | None) -> dict[str, float]:
    """Least seconds of each op in one forward, by its calls at all positions; those at one position are not counted."""
    labels = {f"{rows} x {length}", f"1 x {rows * length}", f"{rows} texts"}
    often, batch = calls(c), [case for case in cases(c, ((rows, length),), few=(16,)) if case.label in labels]
    often.pop("delta_net")  # delta_inputs and delta_rule on a GPU
    least = {case.op: often[case.op] * limits.floor(case.bytes, case.flops) for case in batch if case.op in often}
    return least | {LINEAR: sum(_linears(c, rows * length, limits, recipe))}


def calls(c: ModelConfig) -> dict[str, int]:
    """How often a forward calls each op but the linear layers, at all positions or for the answers."""
    linear, full = (c.layer_types.count(kind) for kind in ("linear_attention", "full_attention"))
    ends_full = c.layer_types[-1] == "full_attention"  # the last block answers for one position a text
    return {
        "embedding": 1,
        "add_rms_norm": 2 * c.num_hidden_layers - 1,
        "gated_rms_norm": linear - (not ends_full),
        "delta_inputs": linear,
        "delta_rule": linear,
        "delta_net": linear,
        "norm_rotary": full - ends_full,
        "keys_values": full,
        "causal_attention": full - ends_full,
        "gate_heads": full - ends_full,
        "last_attention": int(ends_full),
        "swiglu": c.num_hidden_layers - 1,
        "digit_head": 1,
    }


def _linears(c: ModelConfig, tokens: int, limits: Limits, recipe: Recipe | None) -> Iterator[float]:
    """Least seconds of the linear layers of each block, merged as the model merges them."""
    shapes = matrices(c)
    names = {"in_qkvz": "linear_attn.in_proj_qkv", "out_proj": "linear_attn.out_proj", "in_kvq": "self_attn.q_proj"}
    names |= {"in_kv": "self_attn.k_proj", "gate_up": "mlp.gate_proj", "down": "mlp.down_proj"}

    def floor(name: str) -> float:
        (N, K), grid = shapes[name], recipe.grid(f"{names[name]}.weight") if recipe else None
        weights = quantized.nbytes((N, K), grid.bits, grid.group_size) if grid else 2 * N * K
        return limits.floor(weights + 2 * tokens * (N + K), 2 * tokens * N * K)

    a_b = limits.floor(2 * 2 * c.linear_num_value_heads * (c.hidden_size + tokens), 0)
    for index, kind in enumerate(c.layer_types):
        last = index + 1 == c.num_hidden_layers
        if kind == "linear_attention":
            yield floor("in_qkvz") + a_b
        else:
            yield floor("in_kv" if last else "in_kvq")
        if not last:  # out_proj stands for o_proj too
            yield floor("out_proj") + floor("gate_up") + floor("down")
