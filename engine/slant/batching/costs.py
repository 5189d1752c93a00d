"""What a static batch costs: predicted seconds by rows and padded length, by which batches are planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slant.model.config import ModelConfig


@dataclass(frozen=True)
class BatchCosts:
    """``overhead`` seconds a batch and ``token`` seconds a token's worth of work.

    A row of ``T`` tokens counts as ``T + attention * T * T`` tokens' worth of work: all else in a forward grows with T,
    attention with its square.
    """

    overhead: float
    token: float
    attention: float = 0.0

    def seconds(self, rows: ArrayLike, length: int) -> NDArray[np.float64]:
        """Predicted seconds of batches of each of ``rows`` texts, padded to ``length`` tokens; the shape is rows'."""
        work = length + self.attention * length * length
        return self.overhead + np.asarray(rows) * (self.token * work)


TOKENS = BatchCosts(overhead=0.0, token=1.0)  # a batch costs the tokens that it computes


class Rates(NamedTuple):
    """``flops`` and ``bytes`` a second that a whole forward reaches, and ``dispatch`` seconds a layer."""

    flops: float
    bytes: float
    dispatch: float


# By device type and bytes a weight.
# CPU: FLOPs a thread and memory of the whole machine as fitted to two threads of an AVX512-BF16 processor (0.8B shape:
# 27 ms a batch and 1.5 ms a token in bf16, 33 and 2.5 in fp32); 40 torch calls of 10 us.
# CUDA, not fitted: 40 % of the dense bf16 rate of a data sheet, as elementwise work and the recurrence take
# their share, between an A100 (125e12) and an H100 (396e12); the memory rate of an A100; fp32 without tensor cores; 12
# launches of 10 us.
RATES = {
    ("cpu", 2): Rates(316e9, 55e9, 0.4e-3),
    ("cpu", 4): Rates(195e9, 84e9, 0.4e-3),
    ("cuda", 2): Rates(250e12, 2e12, 0.12e-3),
    ("cuda", 4): Rates(20e12, 2e12, 0.12e-3),
}


def default_costs(config: ModelConfig, device: str, itemsize: int, threads: int = 1) -> BatchCosts:
    """Costs for a device type ("cpu" or "cuda"); ``threads`` count on a CPU only.

    A batch reads all weights of ``itemsize`` bytes once and dispatches every layer, whatever its size; then each token
    takes its FLOPs. These are added although a GPU overlaps them, because products of few rows run below the rate: the
    sum is within 4 % of that CPU at 16 to 1024 tokens in bf16 (16 tokens: 53 ms, of which 24 at the rate).

    The planner decides by the overhead in tokens, which differs less between devices than either does: 18 on that CPU,
    260 for the 4B shape on CUDA, where the same reckoning gives 100 for an RTX 4090 and 340 for an H100. An H200 with
    graphs took 2.9 ms a batch and 11.9 us a token, 250 tokens.
    """
    rates = RATES[device, itemsize]
    token, square = config.flops()
    read = token / 2 * itemsize / rates.bytes
    rate = rates.flops * (threads if device == "cpu" else 1)
    return BatchCosts(read + config.num_hidden_layers * rates.dispatch, token / rate, square / token)
