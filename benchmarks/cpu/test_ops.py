"""Each op at three batch shapes, with arguments of the kinds that a forward gives it, and each linear layer.

A row's ``calls`` is how often a forward makes this call, so that calls times seconds are the op's part of it. ``bytes``
counts every argument and result once. Linear layers take turns through the model's own weights, which so come from
memory where no cache holds all of them; the other ops, those of the GPU suite's cases, are called again with the same
random arguments, which a cache may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from cpu import workload
from gpu.case import BF16, Draw
from gpu.device import held
from gpu.kernel_cases import OPS, at_shape
from gpu.waterfall import calls
from slant.runtime.runner import Runner
from slant_kernels.linear import linear
from slant_kernels.quantized import BITS, dequantize

SHAPES = ((1, 128), (8, 128), (1, 1024))
GROUP = 64

at_shapes = pytest.mark.parametrize(("rows", "length"), SHAPES, ids=lambda size: str(size))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", OPS)
@at_shapes
def test_op(name: str, rows: int, length: int, runner: Runner, measure: Callable[..., Any]) -> None:
    config, dtype = runner.model.config, runner.model.dtype
    often = calls(config)[name]
    if not often:
        pytest.skip(f"the model calls no {name} at all positions")
    case = at_shape(config, rows, length)[name]
    arguments = in_dtype(case.make(torch.device("cpu")), dtype)
    measure(
        lambda: case.run(*arguments),
        group="ops",
        workload=name,
        shape=[rows, length],
        dtype=workload.dtype(runner),
        calls=often,
        bytes=held((arguments, case.run(*arguments))) - case.uncounted * dtype.itemsize // 2,
        **({"flops": case.flops} if case.flops else {}),
    )


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Arguments with their bf16 tensors in another dtype."""
    if isinstance(value, tuple):
        return tuple(in_dtype(part, dtype) for part in value)
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype == BF16 else value


@pytest.mark.parametrize("name", workload.MATRICES)
@at_shapes
def test_linear(name: str, rows: int, length: int, runner: Runner, measure: Callable[..., Any]) -> None:
    layers = workload.matrices(runner.model)[name]
    if not layers:
        pytest.skip(f"the model has no {name}")
    (N, K), turn = layers[0].shape, cycle(layers)
    x = torch.randn(rows, length, K).to(runner.model.dtype)
    out = measure(
        lambda: linear(x, next(turn)),
        group="ops",
        workload=f"linear {name}",
        shape=[rows, length],
        matrix=[N, K],
        dtype=workload.dtype(runner),
        calls=len(layers),
        flops=2 * rows * length * N * K,
        bytes=(rows * length * (N + K) + N * K) * x.element_size(),
    )
    assert out.shape == (rows, length, N)


@pytest.mark.parametrize("bits", BITS)
def test_dequantize(bits: int, runner: Runner, measure: Callable[..., Any]) -> None:
    shape = workload.matrices(runner.model)["Block.gate_up"][0].shape
    matrix = Draw(torch.device("cpu")).quantized(tuple(shape), bits, GROUP)
    out = torch.empty(shape, dtype=runner.model.dtype)
    measure(
        lambda: dequantize(matrix, out.dtype, out),
        group="ops",
        workload=f"dequantize Block.gate_up {bits}/{GROUP}",
        matrix=list(shape),
        dtype=workload.dtype(runner),
        bytes=held((matrix, out)),
    )
