"""Each op with the arguments that a forward gives it, at three batch shapes.

A row's ``calls`` is how often a forward makes this call, so that calls times seconds are the op's part of it. ``bytes``
counts every argument and result once. Linear layers take turns through the layers' weights, which so come from memory
where no cache holds all of them; the other ops are called again with the same arguments, which a cache may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import slant.model.qwen3_5
import slant.runtime.execution
from cpu import workload
from gpu.linear_cases import quantized_matrix
from slant.runtime.runner import Runner
from slant_kernels.delta_rule import CHUNK
from slant_kernels.linear import linear
from slant_kernels.quantized import BITS, dequantize

SHAPES = ((1, 128), (8, 128), (1, 1024))
OPS = {
    slant.model.qwen3_5: (
        "embedding",
        "add_rms_norm",
        "gated_rms_norm",
        "delta_net",
        "norm_rotary",
        "keys_values",
        "causal_attention",
        "gate_heads",
        "last_attention",
        "swiglu",
    ),
    slant.runtime.execution: ("digit_head",),
}
GROUP = 64

at_shapes = pytest.mark.parametrize(("rows", "length"), SHAPES, ids=lambda size: str(size))


@dataclass
class Call:
    """An op's first call in a forward, and how many have an argument of that shape in the first place."""

    run: Callable[[], Any]
    arguments: tuple[Any, ...]
    calls: int = 0


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def forward(runner: Runner) -> Callable[[int, int], dict[str, Call]]:
    """The calls of a forward over rows of a length; those of the latest shape are kept."""
    latest: dict[tuple[int, int], dict[str, Call]] = {}

    def of(rows: int, length: int) -> dict[str, Call]:
        if (rows, length) not in latest:
            latest.clear()
            latest[rows, length] = recorded(runner, rows, length)
        return latest[rows, length]

    return of


def recorded(runner: Runner, rows: int, length: int) -> dict[str, Call]:
    """The first call of every op in a forward of one batch."""
    found: dict[str, Call] = {}

    def recording(name: str, op: Callable[..., Any], *arguments: Any) -> Any:
        call = found.setdefault(name, Call(partial(op, *arguments), arguments))
        call.calls += arguments[0].shape == call.arguments[0].shape
        return op(*arguments)

    with ExitStack() as stack:
        for module, names in OPS.items():
            for name in names:
                op = partial(recording, name, getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, op))
        (_,) = runner.run(workload.texts(runner, [length] * rows))
    return found


@pytest.mark.parametrize("name", [name for names in OPS.values() for name in names])
@at_shapes
def test_op(
    name: str,
    rows: int,
    length: int,
    forward: Callable[[int, int], dict[str, Call]],
    runner: Runner,
    measure: Callable[..., Any],
) -> None:
    if name not in forward(rows, length):
        pytest.skip(f"the model calls no {name}")
    call = forward(rows, length)[name]
    facts = {"workload": name, "shape": [rows, length], "dtype": workload.dtype(runner), "calls": call.calls}
    facts["group"] = "ops"
    if count := flops(name, runner, rows, length):
        facts["flops"] = count
    measure(call.run, **facts, bytes=moved(call.arguments, call.run(), looked_up=name == "embedding"))


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
    matrix = quantized_matrix(torch.device("cpu"), tuple(shape), bits, GROUP)
    out = torch.empty(shape, dtype=runner.model.dtype)
    measure(
        lambda: dequantize(matrix, out.dtype, out),
        group="ops",
        workload=f"dequantize Block.gate_up {bits}/{GROUP}",
        matrix=list(shape),
        dtype=workload.dtype(runner),
        bytes=sum(part.nbytes for part in (matrix.codes, matrix.scales, matrix.zeros, out)),
    )


def flops(name: str, runner: Runner, rows: int, length: int) -> int:
    """What the products of an op take; 0 for ops that are all about bytes."""
    c = runner.model.config
    if name == "causal_attention":  # pairs of a query and a key it sees; 4 a channel, for q k and for p v
        pairs = length * len(runner.prefix_ids) + length * (length + 1) // 2
        return rows * pairs * 4 * c.num_attention_heads * c.head_dim
    if name == "delta_net":  # in chunks: products with k k^T, q k^T and the inverse, then with the state
        K, V = c.linear_key_head_dim, c.linear_value_head_dim
        return rows * length * c.linear_num_value_heads * (2 * CHUNK * (3 * K + 2 * V) + 6 * K * V)
    return 0


def moved(arguments: Iterable[Any], results: Any, *, looked_up: bool) -> int:
    """Bytes of all tensors in arguments and results; of a table that rows are ``looked_up`` in, those rows only."""
    inputs, outputs = list(tensors(arguments)), list(tensors(results))
    if looked_up:
        inputs = [*inputs[:-1], *outputs]
    return sum(tensor.nbytes for tensor in inputs + outputs)


def tensors(thing: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from tensors(part)
