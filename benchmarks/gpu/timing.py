"""Timing on a GPU: rotating inputs, CUDA graphs, interleaved contenders, and the two limits measured in the same run.

A call is timed as one of many in a row: a loop over several input sets that together exceed the L2 cache, captured in a
CUDA graph so that the gaps between launches shrink, replayed between two events. Loops of different contenders take
turns, so that a change of the clock meets them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch

Arguments = tuple[Any, ...]
Sample = Callable[[], float]
"""Runs a loop once and returns the seconds of one call in it."""

TURN = 2e-3  # seconds a loop should take at least, so that the events' resolution of half a microsecond is nothing
MOST_CALLS = 256
MOST_SETS = 32


class Clock(Protocol):
    """Makes loops. The suite's dry run replaces it by one that has no time to tell."""

    def loop(self, run: Callable[..., Any], sets: Sequence[Arguments], captured: bool) -> Sample: ...


class GpuClock:
    """Times calls on the current CUDA device."""

    def loop(self, run: Callable[..., Any], sets: Sequence[Arguments], captured: bool) -> Sample:
        """Warm up, then capture as many calls as ``TURN`` needs, or run them one by one if they cannot be captured."""
        for arguments in (*sets, *sets):
            run(*arguments)
        once = self._seconds(lambda: [run(*arguments) for arguments in sets])
        rounds = max(1, min(math.ceil(TURN / once), MOST_CALLS // len(sets)))

        def calls() -> None:
            for _ in range(rounds):
                for arguments in sets:
                    run(*arguments)

        body: Callable[[], Any] = calls
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                calls()
            body = graph.replay
        self._seconds(body)
        return lambda: self._seconds(body) / (rounds * len(sets))

    @staticmethod
    def _seconds(body: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        body()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def turns(loops: Mapping[str, Sample], seconds: float, fewest: int = 7, most: int = 200) -> dict[str, list[float]]:
    """Samples of each loop, taken in turn until each has had about ``seconds``."""
    samples: dict[str, list[float]] = {name: [] for name in loops}
    first = {name: max(TURN, sample()) for name, sample in loops.items()}
    for _ in range(max(fewest, min(most, int(seconds / max(first.values()))))):
        for name, sample in loops.items():
            samples[name].append(sample())
    return samples


def input_sets(make: Callable[[], Arguments], size: int, cache: int) -> list[Arguments]:
    """Enough argument sets that a set has left a cache of ``cache`` bytes before its turn comes again."""
    return [make() for _ in range(min(MOST_SETS, 1 + math.ceil(2 * cache / size)))]


@dataclass(frozen=True)
class Limits:
    """What the device reached in this run: bytes read plus written in a copy, FLOPs in a bf16 matrix product."""

    bytes_per_s: float
    flops_per_s: float

    def floor(self, size: int, flops: int) -> float:
        """Seconds below which no version runs."""
        return max(size / self.bytes_per_s, flops / self.flops_per_s)

    def binds(self, size: int, flops: int) -> str:
        return "bytes" if size / self.bytes_per_s >= flops / self.flops_per_s else "flops"

    @classmethod
    def measure(cls, clock: Clock, device: torch.device, copied: int = 1 << 30, side: int = 8192) -> Limits:
        """Medians, on random data: a product of zeros runs faster than one of numbers."""
        source = torch.randint(256, (copied,), dtype=torch.uint8, device=device)
        copy = clock.loop(torch.Tensor.copy_, [(torch.empty_like(source), source)], captured=True)
        a, b = torch.randn(2, side, side, dtype=torch.bfloat16, device=device)
        product = clock.loop(torch.mm, [(a, b)], captured=True)
        samples = turns({"copy": copy, "product": product}, seconds=0.5)
        return cls(2 * copied / median(samples["copy"]), 2 * side**3 / median(samples["product"]))
