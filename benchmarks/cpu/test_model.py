"""The whole model: single texts of growing length, and several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cpu import workload
from slant.runtime.runner import Runner

SHAPES = (*((1, 16 << step) for step in range(8)), (8, 128), (8, 1024))


@pytest.mark.parametrize(("rows", "length"), SHAPES, ids=lambda size: str(size))
def test_forward(rows: int, length: int, runner: Runner, measure: Callable[..., Any]) -> None:
    texts = workload.texts(runner, [length] * rows)
    batches = len(list(runner.batches(texts)))
    computed = measure(
        lambda: workload.run(runner, texts),
        workload=f"{rows}x{length}",
        shape=[rows, length],
        dtype=workload.dtype(runner),
        texts=rows,
        tokens=rows * length,
        flops=workload.flops(runner.model.config, [length] * rows),
        bytes=batches * workload.weight_bytes(runner),
    )
    assert rows * length <= computed < 1.15 * rows * length
