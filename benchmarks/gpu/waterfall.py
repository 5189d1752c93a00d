"""Where the time of one batch goes: the kernels of a profile by op, each op beside the least time it could take."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpu.device import Kernel, Limits
from gpu.kernel_cases import PER_TOKEN, at_shape
from gpu.linear_cases import matrices
from harness.rows import Row
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
    (r"^_(quantized_linear|sum|dequantize|quantize_rows)_kernel", LINEAR),
    (r"(?i)flash|fmha|sdpa|attention", "causal_attention"),
    (r"(?i)gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|wgmma|gemvx|^Cijk", LINEAR),
)
OTHER = "other"
# A projection of ``matrices`` as a recipe names its first part; out_proj stands for o_proj too.
PARTS = {
    "in_qkvz": "linear_attn.in_proj_qkv",
    "out_proj": "linear_attn.out_proj",
    "in_kvq": "self_attn.q_proj",
    "in_kv": "self_attn.k_proj",
    "gate_up": "mlp.gate_proj",
    "down": "mlp.down_proj",
}


def waterfall(
    kernels: Iterable[Kernel], config: ModelConfig, rows: int, length: int, limits: Limits, recipe: Recipe | None
) -> list[Row]:
    """A row for each op of a batch of ``rows`` texts of ``length`` tokens after the prefix, the slowest first.

    ``limit_microseconds`` is the sum over its calls of the least that each could take.
    """
    found: dict[str, list[Kernel]] = {}
    for kernel in sorted(kernels, key=lambda kernel: -kernel.seconds):
        found.setdefault(owner(kernel.name), []).append(kernel)
    least = floors(config, rows, length, limits, recipe)
    seconds = {op: sum(kernel.seconds for kernel in found.get(op, [])) for op in least.keys() | found.keys()}
    busy = sum(seconds.values())
    return [
        {
            "kernel_seconds": busy,
            "op": op,
            "calls": sum(kernel.calls for kernel in found.get(op, [])),
            "microseconds": 1e6 * seconds[op],
            "limit_microseconds": 1e6 * least.get(op, 0.0),
            "share": round(seconds[op] / busy, 4) if busy else None,
            "of_limit": round(least.get(op, 0.0) / seconds[op], 4) if seconds[op] else None,
            "kernels": tuple(dict.fromkeys(kernel.name[:80] for kernel in found.get(op, [])))[:3],
        }
        for op in sorted(seconds, key=lambda op: (-seconds[op], op))
    ]


def owner(kernel: str) -> str:
    """The op that a kernel belongs to, by its name."""
    return next((op for pattern, op in OWNERS if re.search(pattern, kernel)), OTHER)


def floors(c: ModelConfig, rows: int, length: int, limits: Limits, recipe: Recipe | None) -> dict[str, float]:
    """Least seconds of each op in one forward, by its calls at all positions; those at one position are not counted."""
    flat, often = at_shape(c, 1, rows * length), calls(c)
    ops = at_shape(c, rows, length) | {op: flat[op] for op in PER_TOKEN}
    del often["delta_net"]  # delta_inputs and delta_rule on a GPU
    least = {op: count * limits.floor(ops[op].bytes, ops[op].flops) for op, count in often.items()}
    shapes, tokens, total = matrices(c), rows * length, 0.0
    for index, kind in enumerate(c.layer_types):
        last = index + 1 == c.num_hidden_layers
        if kind == "linear_attention":
            used = ["in_qkvz"]
            total += limits.floor(2 * 2 * c.linear_num_value_heads * (c.hidden_size + tokens), 0)  # in_ab
        else:
            used = ["in_kv" if last else "in_kvq"]
        for name in used if last else (*used, "out_proj", "gate_up", "down"):
            (N, K), grid = shapes[name], recipe.grid(f"{PARTS[name]}.weight") if recipe else None
            weights = quantized.nbytes((N, K), grid.bits, grid.group_size) if grid else 2 * N * K
            total += limits.floor(weights + 2 * tokens * (N + K), 2 * tokens * N * K)
    return least | {LINEAR: total}


def calls(c: ModelConfig) -> dict[str, int]:
    """How often a forward calls each op but the linear layers, at all positions or for the answers."""
    linear, full = (c.layer_types.count(kind) for kind in ("linear_attention", "full_attention"))
    ends_full = c.layer_types[-1] == "full_attention"  # the last block answers for one position a text
    at_all = full - ends_full
    return {
        "embedding": 1,
        "add_rms_norm": 2 * c.num_hidden_layers - 1,
        "gated_rms_norm": linear - (not ends_full),
        **dict.fromkeys(("delta_inputs", "delta_rule", "delta_net"), linear),
        **dict.fromkeys(("norm_rotary", "causal_attention", "gate_heads"), at_all),
        "keys_values": full,
        "last_attention": int(ends_full),
        "swiglu": c.num_hidden_layers - 1,
        "digit_head": 1,
    }
