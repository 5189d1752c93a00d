"""Every op at the shapes of a model; ``case.py`` says what a case is."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from gpu.case import BF16, FP32, Case, Draw, case
from gpu.linear_cases import fp8_cases, quantized_cases
from gpu.peers import FLA, Arguments
from random_model import SHAPES
from slant.model.config import ModelConfig
from slant.model.registry import parse_config
from slant_kernels import attention, delta_inputs, delta_net, delta_rule, digit_head, embedding, norm, rotary, swiglu

MODEL = parse_config(SHAPES["4b"])
TINY_SHAPE = SHAPES["4b"] | {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
TINY = parse_config(TINY_SHAPE)
# The same number of tokens as one text and as many is not the same work for the recurrence and for attention.
BATCHES = ((1, 128), (1, 512), (1, 2048), (16, 128), (1, 8192), (8, 1024), (1, 16384), (128, 128))
# Beside the batches' tokens: the last block multiplies for one position a text, and the kernels differ by these.
FEW = (16, 64, 256, 1024)
PREFIX = 30  # tokens of the prompt that all texts share
LABELS = 5
EPS = 1e-6
PER_TOKEN = ("embedding", "add_rms_norm", "rms_norm", "gated_rms_norm", "norm_rotary", "keys_values", "gate_heads")
PER_TOKEN += ("swiglu",)
PER_BATCH = ("delta_inputs", "delta_rule", "delta_net", "causal_attention", "last_attention")
# What a forward calls on a CPU, where delta_net is one op.
OPS = [op for op in (*PER_TOKEN, *PER_BATCH, "digit_head") if op not in ("rms_norm", "delta_inputs", "delta_rule")]


@lru_cache(maxsize=1)
def _table(device: torch.device, V: int, D: int) -> Tensor:
    """One table for all cases: it is large, and other ids read other rows."""
    return torch.randn(V, D, dtype=BF16, device=device)


def cases(
    c: ModelConfig = MODEL, batches: tuple[tuple[int, int], ...] = BATCHES, few: tuple[int, ...] = FEW
) -> list[Case]:
    """All cases of a model; ``few`` are numbers of tokens for the quantized linear beside those of the batches."""
    tokens = list(dict.fromkeys(B * T for B, T in batches))
    flat, whole = [at_shape(c, 1, M) for M in tokens], [at_shape(c, B, T) for B, T in batches]
    found = [made[op] for op in PER_TOKEN for made in flat]
    found += [made[op] for op in PER_BATCH for made in whole]
    fp32 = at_shape(c, *batches[0], FP32)
    found += [replace(fp32[op], timed=False) for op in ("delta_inputs", "delta_rule")]
    found += [at_shape(c, B, 1)["digit_head"] for B in sorted({B for B, _ in batches})]
    return [*found, *quantized_cases(c, sorted({*few, *tokens})), *fp8_cases(c, tokens)]


def at_shape(c: ModelConfig, B: int, T: int, dtype: torch.dtype = BF16) -> dict[str, Case]:
    """Each op by name for B texts of T tokens, but the quantized and 8-bit products; dtype is the delta rule's."""
    D, F, V, M, S = c.hidden_size, c.intermediate_size, c.vocab_size, B * T, PREFIX + T
    H, G, Dh, R = c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rotary_dim
    Hk, K, Hv, Vh = c.linear_num_key_heads, c.linear_key_head_dim, c.linear_num_value_heads, c.linear_value_head_dim
    C, W, item = c.conv_dim, c.linear_conv_kernel_dim, dtype.itemsize
    label, texts = f"{B} x {T}" + " fp32" * (dtype == FP32), f"{B} texts"

    def angles(on: Draw) -> tuple[Tensor, Tensor]:
        return on.uniform(T, R // 2), on.uniform(T, R // 2)

    def weight(on: Draw, width: int) -> Tensor:
        return on.normal(width, dtype=FP32)

    def query_and_gate(on: Draw) -> tuple[Tensor, ...]:
        return on.normal(B, T, 2 * H * Dh).unflatten(-1, (H, 2, Dh)).unbind(3)

    def key_value(on: Draw) -> Tensor:
        return on.normal(B, T, 2 * (G + H) * Dh)[..., : 2 * G * Dh].unflatten(-1, (2, G, Dh))

    def mixed(on: Draw) -> Arguments:
        """The projections as ``delta_inputs`` gets them, and its parameters."""
        x = on.normal(B, T, C + c.value_dim, dtype=dtype)[..., :C]
        a, b = on.normal(B, T, 2 * Hv, dtype=dtype).chunk(2, dim=-1)
        return x, a, b, on.normal(W, C, dtype=FP32), on.uniform(Hv) * 3, weight(on, Hv), Hk, K

    def gated_z(on: Draw) -> Tensor:
        return on.normal(B, T, C + c.value_dim)[..., C:].unflatten(-1, (Hv, Vh))

    def rule(on: Draw) -> Arguments:
        qk = on.normal(B, T, 2, Hk, K, dtype=FP32)
        qk = qk / qk.norm(dim=-1, keepdim=True) * torch.tensor([K**-0.5, 1.0], device=on.device)[:, None, None]
        # As delta_inputs leaves them: slices of one tensor.
        whole = torch.cat([qk.flatten(2).to(dtype), on.normal(B, T, Hv * Vh, dtype=dtype)], dim=2)
        query, key, v = whole.split([Hk * K, Hk * K, Hv * Vh], dim=2)
        heads = query.unflatten(2, (Hk, K)), key.unflatten(2, (Hk, K)), v.unflatten(2, (Hv, Vh))
        return *heads, -on.uniform(B, T, Hv), on.uniform(B, T, Hv), state(on)

    def state(on: Draw) -> Tensor:
        return on.normal(1, Hv, K, Vh, dtype=FP32)

    def before(on: Draw) -> Tensor:
        """The convolution's first inputs."""
        return on.normal(1, W - 1, C, dtype=dtype)

    def keys_values(on: Draw) -> Arguments:
        return on.normal(B, G, S, Dh), on.normal(B, G, S, Dh)

    mixed_size = M * item * (C + 2 * Hv) + 4 * W * C + 2 * 4 * Hv + item * (W - 1) * C
    # The chunked form, for L tokens of a chunk and value head: k k^T and q k^T (4 L^2 K), the inverse times v and k
    # (2 L^2 (K + V)), attn N (2 L^2 V), and W S, q S, k^T N (6 L K V). Making the inverse itself is not counted.
    rule_flops = M * Hv * (2 * delta_rule.CHUNK * (3 * K + 2 * Vh) + 6 * K * Vh)
    # Empty queries stand before the text's, PREFIX of them, whose work is not counted.
    pairs = T * PREFIX + T * (T + 1) // 2  # of a query and a key it sees; 4 Dh for q k and for p v
    found = [
        case(
            embedding.embedding,
            label,
            M * (8 + 2 * 2 * D) + 8 * B,  # of the table only the rows looked up
            lambda on: (torch.randint(V, (B, T), device=on.device), on.full(B, T), _table(on.device, V, D)),
            uncounted=2 * D * (V - M),
        ),
        case(
            norm.add_rms_norm,
            label,
            M * 4 * 2 * D + 4 * D,
            lambda on: (on.normal(B, T, D), on.normal(B, T, D), weight(on, D), EPS),
        ),
        case(norm.rms_norm, label, M * 4 * D + 4 * D, lambda on: (on.normal(B, T, D), weight(on, D), EPS)),
        case(
            norm.gated_rms_norm,
            label,
            M * 3 * 2 * Hv * Vh + 4 * Vh,
            lambda on: (on.normal(B, T, Hv, Vh), gated_z(on), weight(on, Vh), EPS),
        ),
        case(
            rotary.norm_rotary,
            label,
            2 * H * Dh * B * (T + S) + 4 * T * R + 4 * Dh,
            lambda on: (query_and_gate(on)[0], weight(on, Dh), *angles(on), EPS, PREFIX),
        ),
        case(
            rotary.keys_values,
            label,
            2 * G * Dh * 2 * (M + PREFIX + B * S) + 4 * T * R + 4 * Dh,
            lambda on: (
                key_value(on),
                weight(on, Dh),
                *angles(on),
                EPS,
                (on.normal(1, G, PREFIX, Dh), on.normal(1, G, PREFIX, Dh)),
            ),
        ),
        case(
            rotary.gate_heads,
            label,
            M * 3 * 2 * H * Dh,
            lambda on: (on.normal(B, H, S, Dh)[:, :, PREFIX:], query_and_gate(on)[1]),
        ),
        case(swiglu.swiglu, label, M * 3 * 2 * F, lambda on: (on.normal(B, T, 2 * F),)),
        case(
            delta_inputs.delta_inputs,
            label,
            mixed_size + M * (item * C + 2 * 4 * Hv),
            lambda on: (*mixed(on), before(on)),
        ),
        case(  # the state is read and not kept
            delta_rule.delta_rule,
            label,
            M * (item * (2 * Hk * K + 2 * Hv * Vh) + 2 * 4 * Hv) + 4 * Hv * K * Vh,
            rule,
            rule_flops,
            (FLA,),
        ),
        case(
            delta_net.delta_net,
            label,
            mixed_size + 4 * Hv * K * Vh + M * 2 * Hv * Vh,
            lambda on: (*mixed(on), (before(on), state(on))),
            rule_flops,
        ),
        case(  # as norm_rotary and keys_values leave them; it is torch's, and has no other way to be beside
            attention.causal_attention,
            label,
            2 * B * Dh * 2 * (H + G) * S,
            lambda on: (on.normal(B, H, S, Dh), *keys_values(on)),
            B * H * pairs * 4 * Dh,
            beside_torch=False,
        ),
        case(
            attention.last_attention,
            label,
            2 * B * Dh * 2 * (H + G * S) + 8 * B,
            lambda on: (on.normal(B, H, 1, Dh), *keys_values(on), on.full(B, S)),
            B * H * S * 4 * Dh,
        ),
        case(
            digit_head.digit_head,
            texts,
            B * (2 * D + 2 * 4 * LABELS) + 4 * (1 + LABELS) * D,
            lambda on: (on.normal(B, D), weight(on, D), on.normal(LABELS, D, dtype=FP32), EPS),
        ),
    ]
    return {one.op: one for one in found}
