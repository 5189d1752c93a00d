"""Every op at the shapes of a model; ``case.py`` says what a case is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from gpu.case import BF16, FP32, Case, beside_torch, label, rand, randn
from gpu.linear_cases import eight_bit_cases, quantized_cases
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


def cases(
    c: ModelConfig = MODEL, batches: tuple[tuple[int, int], ...] = BATCHES, few: tuple[int, ...] = FEW
) -> list[Case]:
    """All cases of a model; ``few`` are numbers of tokens for the quantized linear beside those of the batches."""
    lines = {B * T: (1, B * T) for B, T in batches}.values()  # for ops that see only the number of tokens
    per_tokens = (
        _embedding,
        _add_rms_norm,
        _rms_norm,
        _gated_rms_norm,
        _norm_rotary,
        _keys_values,
        _gate_heads,
        _swiglu,
    )
    per_batch = (_delta_inputs, _delta_rule, _delta_net, _causal_attention, _last_attention)
    found = [case(c, B, T) for case in per_tokens for B, T in lines]
    found += [case(c, B, T) for case in per_batch for B, T in batches]
    found += [replace(case(c, *batches[0], FP32), timed=False) for case in (_delta_inputs, _delta_rule)]
    found += [_digit_head(c, B) for B in sorted({B for B, _ in batches})]
    found += quantized_cases(c, sorted({*few, *(B * T for B, T in lines)}))
    return found + list(eight_bit_cases(c, [B * T for B, T in lines]))


def _lengths(device: torch.device, B: int, length: int) -> Tensor:
    return torch.full((B,), length, device=device)


def _embedding(c: ModelConfig, B: int, T: int) -> Case:
    V, D = c.vocab_size, c.hidden_size

    def make(device: torch.device) -> Arguments:
        return torch.randint(V, (B, T), device=device), _lengths(device, B, T), _table(device, V, D)

    size, rows = B * T * (8 + 2 * D + 2 * D) + 8 * B, 2 * D * (V - B * T)  # of the table only the rows looked up
    return beside_torch("embedding", embedding.embedding, label(B, T), make, size, uncounted=rows)


@lru_cache(maxsize=1)
def _table(device: torch.device, V: int, D: int) -> Tensor:
    """One table for all cases: it is large, and other ids read other rows."""
    return randn(device, V, D)


def _add_rms_norm(c: ModelConfig, B: int, T: int) -> Case:
    D = c.hidden_size

    def make(device: torch.device) -> Arguments:
        return randn(device, B, T, D), randn(device, B, T, D), randn(device, D, dtype=FP32), EPS

    return beside_torch("add_rms_norm", norm.add_rms_norm, label(B, T), make, B * T * 4 * 2 * D + 4 * D)


def _rms_norm(c: ModelConfig, B: int, T: int) -> Case:
    D = c.hidden_size

    def make(device: torch.device) -> Arguments:
        return randn(device, B, T, D), randn(device, D, dtype=FP32), EPS

    return beside_torch("rms_norm", norm.rms_norm, label(B, T), make, B * T * 2 * 2 * D + 4 * D)


def _gated_rms_norm(c: ModelConfig, B: int, T: int) -> Case:
    H, D = c.linear_num_value_heads, c.linear_value_head_dim

    def make(device: torch.device) -> Arguments:
        z = randn(device, B, T, c.conv_dim + c.value_dim)[..., c.conv_dim :].unflatten(-1, (H, D))
        return randn(device, B, T, H, D), z, randn(device, D, dtype=FP32), EPS

    return beside_torch("gated_rms_norm", norm.gated_rms_norm, label(B, T), make, B * T * 3 * 2 * H * D + 4 * D)


def _norm_rotary(c: ModelConfig, B: int, T: int) -> Case:
    H, D, R = c.num_attention_heads, c.head_dim, c.rotary_dim

    def make(device: torch.device) -> Arguments:
        q, _ = randn(device, B, T, 2 * H * D).unflatten(-1, (H, 2, D)).unbind(3)
        return q, randn(device, D, dtype=FP32), rand(device, T, R // 2), rand(device, T, R // 2), EPS, PREFIX

    size = 2 * H * D * B * (T + T + PREFIX) + 4 * T * R + 4 * D
    return beside_torch("norm_rotary", rotary.norm_rotary, label(B, T), make, size)


def _keys_values(c: ModelConfig, B: int, T: int) -> Case:
    G, D, R = c.num_key_value_heads, c.head_dim, c.rotary_dim

    def make(device: torch.device) -> Arguments:
        width = 2 * (G + c.num_attention_heads) * D
        kv = randn(device, B, T, width)[..., : 2 * G * D].unflatten(-1, (2, G, D))
        before = randn(device, 1, G, PREFIX, D), randn(device, 1, G, PREFIX, D)
        return kv, randn(device, D, dtype=FP32), rand(device, T, R // 2), rand(device, T, R // 2), EPS, before

    size = 2 * G * D * 2 * (B * T + PREFIX + B * (T + PREFIX)) + 4 * T * R + 4 * D
    return beside_torch("keys_values", rotary.keys_values, label(B, T), make, size)


def _gate_heads(c: ModelConfig, B: int, T: int) -> Case:
    H, D = c.num_attention_heads, c.head_dim

    def make(device: torch.device) -> Arguments:
        _, gate = randn(device, B, T, 2 * H * D).unflatten(-1, (H, 2, D)).unbind(3)
        return randn(device, B, H, PREFIX + T, D)[:, :, PREFIX:], gate

    return beside_torch("gate_heads", rotary.gate_heads, label(B, T), make, B * T * 3 * 2 * H * D)


def _swiglu(c: ModelConfig, B: int, T: int) -> Case:
    width = c.intermediate_size

    def make(device: torch.device) -> Arguments:
        return (randn(device, B, T, 2 * width),)

    return beside_torch("swiglu", swiglu.swiglu, label(B, T), make, B * T * 3 * 2 * width)


def _mixed(c: ModelConfig, B: int, T: int, dtype: torch.dtype, device: torch.device) -> Arguments:
    """The projections as ``delta_inputs`` gets them, and its parameters."""
    Hv, W = c.linear_num_value_heads, c.linear_conv_kernel_dim
    mixed = randn(device, B, T, c.conv_dim + c.value_dim, dtype=dtype)[..., : c.conv_dim]
    a, b = randn(device, B, T, 2 * Hv, dtype=dtype).chunk(2, dim=-1)
    parameters = randn(device, W, c.conv_dim, dtype=FP32), rand(device, Hv) * 3, randn(device, Hv, dtype=FP32)
    return mixed, a, b, *parameters, c.linear_num_key_heads, c.linear_key_head_dim


def _mixed_bytes(c: ModelConfig, B: int, T: int, dtype: torch.dtype) -> int:
    """Of the above and the convolution's first inputs."""
    Hv, W, size = c.linear_num_value_heads, c.linear_conv_kernel_dim, dtype.itemsize
    return B * T * size * (c.conv_dim + 2 * Hv) + 4 * W * c.conv_dim + 2 * 4 * Hv + size * (W - 1) * c.conv_dim


def _delta_inputs(c: ModelConfig, B: int, T: int, dtype: torch.dtype = BF16) -> Case:
    def make(device: torch.device) -> Arguments:
        before = randn(device, 1, c.linear_conv_kernel_dim - 1, c.conv_dim, dtype=dtype)
        return *_mixed(c, B, T, dtype, device), before

    outputs = B * T * (dtype.itemsize * c.conv_dim + 2 * 4 * c.linear_num_value_heads)
    size = _mixed_bytes(c, B, T, dtype) + outputs
    return beside_torch("delta_inputs", delta_inputs.delta_inputs, label(B, T, dtype), make, size)


def _delta_rule(c: ModelConfig, B: int, T: int, dtype: torch.dtype = BF16) -> Case:
    H, K = c.linear_num_key_heads, c.linear_key_head_dim
    Hv, V = c.linear_num_value_heads, c.linear_value_head_dim

    def make(device: torch.device) -> Arguments:
        qk = randn(device, B, T, 2, H, K, dtype=FP32)
        qk = qk / qk.norm(dim=-1, keepdim=True) * torch.tensor([K**-0.5, 1.0], device=device)[:, None, None]
        # As delta_inputs leaves them: slices of one tensor.
        whole = torch.cat([qk.flatten(2).to(dtype), randn(device, B, T, Hv * V, dtype=dtype)], dim=2)
        query, key, v = whole.split([H * K, H * K, Hv * V], dim=2)
        heads = query.unflatten(2, (H, K)), key.unflatten(2, (H, K)), v.unflatten(2, (Hv, V))
        return *heads, -rand(device, B, T, Hv), rand(device, B, T, Hv), randn(device, 1, Hv, K, V, dtype=FP32)

    # The state is read and not kept.
    size = B * T * (dtype.itemsize * (2 * H * K + 2 * Hv * V) + 2 * 4 * Hv) + 4 * Hv * K * V
    run, flops = delta_rule.delta_rule, _rule_flops(c, B, T)
    return beside_torch("delta_rule", run, label(B, T, dtype), make, size, flops=flops, peers=(FLA,))


def _rule_flops(c: ModelConfig, B: int, T: int) -> int:
    """The chunked form, for C tokens of a chunk and value head: k k^T and q k^T (4 C^2 K), the inverse times v and k
    (2 C^2 (K + V)), attn N (2 C^2 V), and W S, q S, k^T N (6 C K V). Making the inverse itself is not counted."""
    C, K, V = delta_rule.CHUNK, c.linear_key_head_dim, c.linear_value_head_dim
    return B * T * c.linear_num_value_heads * (2 * C * (3 * K + 2 * V) + 6 * K * V)


def _delta_net(c: ModelConfig, B: int, T: int) -> Case:
    Hv, K, V = c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim

    def make(device: torch.device) -> Arguments:
        before = randn(device, 1, c.linear_conv_kernel_dim - 1, c.conv_dim)
        return *_mixed(c, B, T, BF16, device), (before, randn(device, 1, Hv, K, V, dtype=FP32))

    size = _mixed_bytes(c, B, T, BF16) + 4 * Hv * K * V + B * T * 2 * Hv * V
    return beside_torch("delta_net", delta_net.delta_net, label(B, T), make, size, flops=_rule_flops(c, B, T))


def _causal_attention(c: ModelConfig, B: int, T: int) -> Case:
    H, G, D = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    S = PREFIX + T

    def make(device: torch.device) -> Arguments:
        # As norm_rotary and keys_values leave them.
        return randn(device, B, H, S, D), randn(device, B, G, S, D), randn(device, B, G, S, D)

    # Empty queries stand before the text's, PREFIX of them, whose work is not counted.
    pairs = T * PREFIX + T * (T + 1) // 2  # of a query and a key it sees; 4 D for q k and for p v
    size, flops = 2 * B * D * (2 * H * S + 2 * G * S), B * H * pairs * 4 * D
    # It is torch's, and has no other way to be beside.
    return Case("causal_attention", label(B, T), make, attention.causal_attention, size, flops)


def _last_attention(c: ModelConfig, B: int, T: int) -> Case:
    H, G, D = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    S = PREFIX + T

    def make(device: torch.device) -> Arguments:
        lengths = _lengths(device, B, S)
        return randn(device, B, H, 1, D), randn(device, B, G, S, D), randn(device, B, G, S, D), lengths

    size, flops = 2 * B * D * (2 * H + 2 * G * S) + 8 * B, B * H * S * 4 * D
    return beside_torch("last_attention", attention.last_attention, label(B, T), make, size, flops=flops)


def _digit_head(c: ModelConfig, B: int) -> Case:
    D = c.hidden_size

    def make(device: torch.device) -> Arguments:
        return randn(device, B, D), randn(device, D, dtype=FP32), randn(device, LABELS, D, dtype=FP32), EPS

    size = B * (2 * D + 2 * 4 * LABELS) + 4 * (1 + LABELS) * D
    return beside_torch("digit_head", digit_head.digit_head, f"{B} texts", make, size)


# What a forward calls on a CPU, where delta_net is one op.
OPS: dict[str, Callable[[ModelConfig, int, int], Case]] = {
    "embedding": _embedding,
    "add_rms_norm": _add_rms_norm,
    "gated_rms_norm": _gated_rms_norm,
    "delta_net": _delta_net,
    "norm_rotary": _norm_rotary,
    "keys_values": _keys_values,
    "causal_attention": _causal_attention,
    "gate_heads": _gate_heads,
    "last_attention": _last_attention,
    "swiglu": _swiglu,
    "digit_head": lambda c, B, T: _digit_head(c, B),
}
