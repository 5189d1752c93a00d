"""Predicted memory of a Qwen3.5 forward: what it holds at its peak beside the weights. Bytes throughout."""

from __future__ import annotations

import torch

from slant.model.qwen3_5.blocks import MLP_TOKENS
from slant.model.qwen3_5.config import Qwen3_5Config
from slant_kernels import native
from slant_kernels.attention import QUERIES
from slant_kernels.delta_net import TILE
from slant_kernels.delta_rule import CHUNK

FP32 = 4


def activation_bytes(config: Qwen3_5Config, itemsize: int, rows: int, length: int, device_type: str = "cpu") -> int:
    """The most that a forward of ``rows`` texts of ``length`` tokens holds beside weights and prefix.

    Follows the code: the largest of a DeltaNet, an attention and an MLP, each with the residual stream around it.
    """
    c, tokens = config, rows * length
    stream = tokens * 4 * c.hidden_size * itemsize  # residual, normalised input, and what the callers still hold
    widths = c.linear_key_head_dim, c.linear_value_head_dim, c.head_dim, c.hidden_size, c.intermediate_size
    on_cpu = _native_parts if native.supports_widths(*widths) else _torch_parts
    delta, attention, mlp = (on_cpu if device_type == "cpu" else _gpu_parts)(c, itemsize, rows, length)
    kinds = {"full_attention": attention, "linear_attention": delta}
    return stream + max(mlp, *(kinds[kind] for kind in set(c.layer_types)))


def _native_parts(c: Qwen3_5Config, itemsize: int, rows: int, length: int) -> tuple[int, int, int]:
    """A DeltaNet, an attention and an MLP on the ops compiled for the CPU."""
    tokens, threads = rows * length, torch.get_num_threads()
    mlp = _mlp(c, tokens, copies=2) * itemsize  # gate and up

    query, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    projected, copied = (2 * query + 4 * keys) * itemsize, 0 if itemsize == FP32 else 1
    rotation = tokens * query * (2 * FP32 + copied * itemsize)
    scored = threads * QUERIES * (length + 2 * c.head_dim) * FP32
    attention = tokens * projected + max(rotation, 2 * tokens * (query + keys) * itemsize + scored)

    states = c.linear_num_value_heads // c.linear_num_key_heads * c.linear_key_head_dim * c.linear_value_head_dim
    scratch = (3 * CHUNK * c.linear_key_head_dim + 5 * CHUNK * CHUNK + states) * FP32
    projected = (c.conv_dim + c.value_dim + 2 * c.linear_num_value_heads) * itemsize
    delta = tokens * (projected + c.value_dim * itemsize) + max(threads * scratch, tokens * c.value_dim * itemsize)
    return delta, attention, mlp


def _torch_parts(c: Qwen3_5Config, itemsize: int, rows: int, length: int) -> tuple[int, int, int]:
    """A DeltaNet, an attention and an MLP on the torch path."""
    tokens = rows * length
    mlp = _mlp(c, tokens, copies=3) * itemsize  # gate and up, silu(gate)

    copied = 0 if itemsize == FP32 else 1  # conversions to and from fp32

    query, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    projected = (2 * query + 4 * keys) * itemsize
    rotation = tokens * query * (2 * FP32 + copied * itemsize)
    block = rows * min(length, QUERIES)
    scored = block * (query * (FP32 + itemsize) + c.num_attention_heads * length * (FP32 + copied * itemsize))
    attention = tokens * projected + max(rotation, tokens * (2 * query * itemsize + keys * FP32) + scored)

    heads, chunk = c.linear_num_value_heads, min(length, CHUNK)
    wide_k, wide_v = heads * c.linear_key_head_dim, heads * c.linear_value_head_dim
    projected = (c.conv_dim + c.value_dim + 2 * heads) * itemsize
    inputs = 2 * c.conv_dim * FP32 + 2 * c.key_dim * (FP32 + copied * itemsize)
    held = c.conv_dim * itemsize if copied else (2 * c.key_dim + c.conv_dim) * FP32
    chunked = (4 * wide_k + 3 * wide_v) * itemsize + chunk * heads * (3 * FP32 + itemsize)
    states = wide_k * c.linear_value_head_dim * itemsize // chunk
    state = min(rows, TILE // CHUNK) * wide_k * c.linear_value_head_dim * (2 * FP32 + itemsize)
    in_tile = min(tokens, TILE) * max(inputs, held + chunked + states) + state
    gated = tokens * c.value_dim * (2 + copied) * FP32
    delta = tokens * (projected + c.value_dim * itemsize) + max(in_tile, gated)
    return delta, attention, mlp


def _mlp(c: Qwen3_5Config, tokens: int, copies: int) -> int:
    """Elements in an MLP: the products of gate and up for all tokens, and ``copies`` as wide for those of a part; or
    the products and the output."""
    return c.intermediate_size * tokens + max(
        copies * c.intermediate_size * min(tokens, MLP_TOKENS), c.hidden_size * tokens
    )


def _gpu_parts(c: Qwen3_5Config, itemsize: int, rows: int, length: int) -> tuple[int, int, int]:
    """A DeltaNet, an attention and an MLP on the Triton path, whose ops hold what they read and what they write."""
    tokens = rows * length
    # Gate and up; and, beyond the stream around a mixer, the mixer's output and another residual.
    mlp = (_mlp(c, tokens, copies=2) + 2 * c.hidden_size * tokens) * itemsize

    query, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = (2 * query + 2 * keys + 2 * keys + 2 * query + query) * itemsize  # projected; k, v; q, o; gated o

    heads, padded = c.linear_num_value_heads, -(-length // CHUNK) * CHUNK
    projected = (c.conv_dim + c.value_dim + 2 * heads) * itemsize
    inputs = c.conv_dim * itemsize + 2 * heads * FP32
    prepared = rows * padded * heads * (2 * CHUNK * itemsize + FP32)
    delta = tokens * (projected + inputs + c.value_dim * itemsize) + prepared
    return delta, tokens * attention, mlp
