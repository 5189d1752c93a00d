"""The cases of linear layers that are not plain: quantized matrices, and products of 8-bit numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from gpu.case import BF16, FP16, Case, beside_torch, rand, randn
from gpu.peers import DENSE, DENSE_8, HQQ, Arguments
from slant.model.config import ModelConfig
from slant_kernels import eight_bit
from slant_kernels import quantized as q
from slant_kernels import quantized_linear as q_linear
from slant_kernels.quantized import BITS, GROUP_SIZES, QuantizedMatrix

GROUP = 64


def matrices(c: ModelConfig) -> dict[str, tuple[int, int]]:
    """Shapes (N, K) of the projections as the model multiplies by them; o_proj is as large as out_proj."""
    kv = 2 * c.num_key_value_heads * c.head_dim
    return {
        "in_qkvz": (c.conv_dim + c.value_dim, c.hidden_size),
        "out_proj": (c.hidden_size, c.value_dim),
        "in_kvq": (kv + 2 * c.num_attention_heads * c.head_dim, c.hidden_size),
        "in_kv": (kv, c.hidden_size),
        "gate_up": (2 * c.intermediate_size, c.hidden_size),
        "down": (c.hidden_size, c.intermediate_size),
    }


def quantized_matrix(device: torch.device, shape: tuple[int, int], bits: int, group_size: int) -> QuantizedMatrix:
    """Random codes, and scales and zeros of an ordinary size."""
    codes, scales = q.layout(shape, bits, group_size)
    zeros = randn(device, *scales, dtype=FP16)
    return QuantizedMatrix(
        torch.randint(256, codes, dtype=torch.uint8, device=device),
        (0.01 + 0.01 * rand(device, *scales)).half(), zeros, bits, group_size, shape,
    )  # fmt: skip


def quantized_cases(c: ModelConfig, tokens: list[int]) -> Iterator[Case]:
    """Every matrix with the bits of the default recipe, the two largest with all bits; other groups are only compiled.

    Compiled are gate_up with all bits and what the default recipe multiplies by, in every shape class.
    """
    most = max(M for M in tokens if q_linear.FUSED.rows["", ""].blocks["M"] >= M)
    for name, shape in matrices(c).items():
        recipe = 8 if name == "out_proj" else 4
        for bits in BITS if name in ("gate_up", "down") else (recipe,):
            yield _dequantize(name, shape, bits, GROUP)
            for M in tokens:
                compiled = name == "gate_up" or bits == recipe
                yield replace(_quantized_linear(name, shape, bits, GROUP, M), compiled=compiled)
    for size in GROUP_SIZES:
        for bits in BITS if size != GROUP else ():
            yield replace(_dequantize("gate_up", matrices(c)["gate_up"], bits, size), timed=False)
            yield replace(_quantized_linear("gate_up", matrices(c)["gate_up"], bits, size, most), timed=False)


def _dequantize(name: str, shape: tuple[int, int], bits: int, group_size: int) -> Case:
    def make(device: torch.device) -> Arguments:
        return quantized_matrix(device, shape, bits, group_size), BF16, torch.empty(shape, dtype=BF16, device=device)

    size = q.nbytes(shape, bits, group_size) + 2 * shape[0] * shape[1]
    label = f"{name} {bits}/{group_size}"
    return beside_torch("dequantize", q.dequantize, label, make, size, peers=(HQQ,))


def _quantized_linear(name: str, shape: tuple[int, int], bits: int, group_size: int, M: int) -> Case:
    N, K = shape

    def make(device: torch.device) -> Arguments:
        scratch = torch.empty(N * K, dtype=BF16, device=device)
        return randn(device, 1, M, K), quantized_matrix(device, shape, bits, group_size), scratch

    # The scratch matrix is not counted: an op that needs none moves less.
    size = 2 * M * K + q.nbytes(shape, bits, group_size) + 2 * M * N
    label = f"{name} {bits}/{group_size}, {M}"
    # torch's own path is not a peer: it dequantizes in many small steps, and no one would run it.
    return Case("quantized_linear", label, make, q_linear.quantized_linear, size, 2 * M * N * K, (DENSE,), 2 * N * K)


def eight_bit_cases(c: ModelConfig, tokens: list[int]) -> Iterator[Case]:
    """Rows of each width to 8 bits, and linear layers by the two largest matrices and the one that takes groups."""
    groups = {"gate_up": None, "down": None, "out_proj": c.linear_value_head_dim}
    for name, group in groups.items():
        shape = matrices(c)[name]
        yield from (_quantize_rows(M, shape[1], group) for M in tokens)
        yield from (_eight_bit_linear(name, shape, M, group) for M in tokens)


def _quantize_rows(M: int, K: int, group: int | None) -> Case:
    def make(device: torch.device) -> Arguments:
        return randn(device, M, K), eight_bit.eight_bit_dtype(device), group

    size = M * (2 * K + K + 4 * (K // group if group else 1))
    return beside_torch("quantize_rows", eight_bit.quantize_rows, f"{M} x {K}", make, size)


def _eight_bit_linear(name: str, shape: tuple[int, int], M: int, group: int | None) -> Case:
    N, K = shape

    def make(device: torch.device) -> Arguments:
        w8 = torch.randint(1, 63, shape, dtype=torch.int8, device=device)  # as fp8 these are numbers too
        return randn(device, 1, M, K), w8.view(eight_bit.eight_bit_dtype(device)), rand(device, N) / K, group

    run, size = eight_bit.eight_bit_linear, 2 * M * K + N * K + 4 * N + 2 * M * N
    case = Case("eight_bit_linear", f"{name}, {M}", make, run, size, 2 * M * N * K, (DENSE_8,))
    return replace(case, compiled=False)  # its kernel is that of quantize_rows; the products are torch's
