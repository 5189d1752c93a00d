"""The cases of linear layers that are not plain: quantized matrices, and matrices in fp8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu.case import BF16, FP32, Case, Draw, case
from gpu.peers import DENSE, DENSE_8, HQQ
from slant.model.config import ModelConfig
from slant_kernels import fp8, norm, quantized, quantized_linear, rotary, swiglu
from slant_kernels.cross import TARGETS
from slant_kernels.fp8 import Fp8Matrix
from slant_kernels.quantized import BITS, GROUP_SIZES

GROUP = 64
FP8_TARGETS = tuple(filter(fp8.multiplies_fp8, TARGETS))
Shape = tuple[int, int]


def matrices(c: ModelConfig) -> dict[str, Shape]:
    """Shapes (N, K) of the projections as the model multiplies by them; o_proj is as large as out_proj."""
    kv, D = 2 * c.num_key_value_heads * c.head_dim, c.hidden_size
    return {
        "in_qkvz": (c.conv_dim + c.value_dim, D),
        "out_proj": (D, c.value_dim),
        "in_kvq": (kv + 2 * c.num_attention_heads * c.head_dim, D),
        "in_kv": (kv, D),
        "gate_up": (2 * c.intermediate_size, D),
        "down": (D, c.intermediate_size),
    }


def quantized_cases(c: ModelConfig, tokens: list[int]) -> Iterator[Case]:
    """Every matrix with the bits of the default recipe, the two largest with all bits; other groups are only compiled.

    Compiled are gate_up with all bits and what the default recipe multiplies by, in every shape class.
    """
    for name, shape in matrices(c).items():
        recipe = 8 if name == "out_proj" else 4
        for bits in BITS if name in ("gate_up", "down") else (recipe,):
            yield _dequantize(name, shape, bits, GROUP)
            for M in tokens:
                compiled = name == "gate_up" or bits == recipe
                yield replace(_quantized_linear(name, shape, bits, GROUP, M), compiled=compiled)
    most = max(M for M in tokens if quantized_linear.FUSED.rows["", ""].blocks["M"] >= M)
    gate_up = "gate_up", matrices(c)["gate_up"]
    for size in GROUP_SIZES:
        for bits in BITS if size != GROUP else ():
            yield replace(_dequantize(*gate_up, bits, size), timed=False)
            yield replace(_quantized_linear(*gate_up, bits, size, most), timed=False)


def _dequantize(name: str, shape: Shape, bits: int, group_size: int) -> Case:
    return case(
        quantized.dequantize,
        f"{name} {bits}/{group_size}",
        quantized.nbytes(shape, bits, group_size) + 2 * shape[0] * shape[1],
        lambda on: (
            on.quantized(shape, bits, group_size),
            BF16,
            torch.empty(shape, dtype=BF16, device=on.device),
        ),
        peers=(HQQ,),
    )


def _quantized_linear(name: str, shape: Shape, bits: int, group_size: int, M: int) -> Case:
    N, K = shape

    def scratch(on: Draw) -> torch.Tensor:
        return torch.empty(N * K, dtype=BF16, device=on.device)

    return case(
        quantized_linear.quantized_linear,
        f"{name} {bits}/{group_size}, {M}",
        2 * M * K + quantized.nbytes(shape, bits, group_size) + 2 * M * N,
        lambda on: (on.normal(1, M, K), on.quantized(shape, bits, group_size), scratch(on)),
        2 * M * N * K,
        (DENSE,),
        beside_torch=False,  # it dequantizes in many small steps, and no one would run it
        uncounted=2 * N * K,  # the scratch matrix: an op that needs none moves less
    )


def fp8_cases(c: ModelConfig, tokens: list[int]) -> Iterator[Case]:
    """Rows of each width to 8 bits, and linear layers by the widest matrices."""
    for name in ("gate_up", "down", "out_proj"):
        N, K = matrices(c)[name]
        yield from (_quantize_rows(M, K) for M in tokens)
        yield from (_fp8_linear(name, N, K, M) for M in tokens)
    yield from fused_cases(c, tokens)


def fused_cases(c: ModelConfig, tokens: list[int]) -> Iterator[Case]:
    """What writes its rows in 8 bits."""
    D, F, EPS = c.hidden_size, c.intermediate_size, 1e-6
    H, Dh, Hv, Vh = c.num_attention_heads, c.head_dim, c.linear_num_value_heads, c.linear_value_head_dim

    def gate_up(on: Draw, M: int) -> tuple[torch.Tensor, fp8.Fp8Rows]:
        x = on.normal(M, 2 * F)
        return x, fp8.empty_rows((M, F), x)

    for M in tokens:
        options: dict[str, Any] = {"targets": FP8_TARGETS, "beside_torch": False}
        yield case(
            norm.add_rms_norm_fp8,
            f"1 x {M}",
            M * (7 * D + 4) + 4 * D,
            lambda on, M=M: (on.normal(1, M, D), on.normal(1, M, D), on.normal(D, dtype=FP32), EPS),
            uncounted=filled(M, D),
            **options,
        )
        yield case(
            norm.gated_rms_norm_fp8,
            f"1 x {M}",
            M * (5 * Hv * Vh + 4) + 4 * Vh,
            lambda on, M=M: (on.normal(1, M, Hv, Vh), on.normal(1, M, Hv, Vh), on.normal(Vh, dtype=FP32), EPS),
            uncounted=filled(M, Hv * Vh),
            **options,
        )
        yield case(
            rotary.gate_heads_fp8,
            f"1 x {M}",
            M * (5 * H * Dh + 4),
            lambda on, M=M: (on.normal(1, H, M, Dh), on.normal(1, M, H, 2, Dh).unbind(3)[1]),
            uncounted=filled(M, H * Dh),
            **options,
        )
        yield case(
            swiglu.swiglu_fp8, f"1 x {M}", M * (5 * F + 4), lambda on, M=M: gate_up(on, M),
            uncounted=filled(M, F), **options,
        )  # fmt: skip


def filled(M: int, K: int) -> int:
    """Bytes of the rows that nobody writes."""
    return -M % fp8.MULTIPLE * (K + 4)


def fp8_linear(x: torch.Tensor, matrix: Fp8Matrix) -> torch.Tensor:
    return matrix.multiply(x)


def _quantize_rows(M: int, K: int) -> Case:
    return case(
        fp8.quantize_rows,
        f"{M} x {K}",
        M * (3 * K + 4),
        lambda on: (on.normal(M, K),),
        uncounted=filled(M, K),
        targets=FP8_TARGETS,
    )


def _fp8_linear(name: str, N: int, K: int, M: int) -> Case:
    def matrix(on: Draw) -> Fp8Matrix:
        return Fp8Matrix(on.normal(N, K).to(fp8.E4M3), on.uniform(N) / K)

    return case(
        fp8_linear,
        f"{name}, {M}",
        2 * M * K + fp8.nbytes((N, K)) + 2 * M * N,
        lambda on: (on.normal(1, M, K), matrix(on)),
        2 * M * N * K,
        (DENSE_8,),
        beside_torch=False,
        compiled=False,  # its kernel is that of quantize_rows; the product is torch's
        targets=FP8_TARGETS,
    )
