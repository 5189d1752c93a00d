"""What the processor can do at best: the rates that the suite's figures are held against, measured in the same session.

FLOPs: the product at the model's own shapes, over the layers in turn, so that the weights come from memory as they
do in a forward. Bytes: the faster of a copy and a sum of an array that no cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median

import torch

from cpu.workload import matrices
from slant.model.qwen3_5 import Model
from slant_kernels.linear import linear

ROWS = (1024, 2048)  # tokens of a full batch
ARRAY = 256 << 20  # bytes


@dataclass(frozen=True)
class Limits:
    """The best rates found; ``flops_by`` and ``bytes_by`` say of what."""

    flops_per_s: float
    bytes_per_s: float
    flops_by: str
    bytes_by: str

    def seconds(self, flops: float, size: float) -> float:
        """The least time for so many FLOPs and bytes, which a processor does at once."""
        return max(flops / self.flops_per_s, size / self.bytes_per_s)


def measure(model: Model, seconds: float = 0.5) -> Limits:
    """Both limits, with about so many seconds for each product and each array."""
    products, moves = {}, {}
    for name, layers in matrices(model).items():
        for rows in ROWS if layers else ():
            (N, K), turn = layers[0].shape, cycle(layers)
            x = torch.randn(rows, K).to(model.dtype)
            took = _median(lambda x=x, turn=turn: linear(x, next(turn)), seconds)
            products[f"{name} x {rows}"] = 2 * rows * N * K / took
    array = torch.ones(ARRAY // 4)
    other = torch.empty_like(array)
    moves["copy"] = 2 * ARRAY / _median(lambda: other.copy_(array), seconds)
    moves["sum"] = ARRAY / _median(array.sum, seconds)
    flops_by, bytes_by = max(products, key=products.__getitem__), max(moves, key=moves.__getitem__)
    return Limits(products[flops_by], moves[bytes_by], flops_by, bytes_by)


@torch.inference_mode()
def _median(run: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call; the first one is not counted, at least three are."""
    run()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken)
