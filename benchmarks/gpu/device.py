"""What the suite asks of a GPU: time, memory, kernels and capture; and of a CPU that stands in for it in a dry run.

A short call is timed as one of many in a row: a loop over several input sets that together exceed the L2 cache,
captured in a CUDA graph so that the gaps between launches shrink, replayed between two events.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slant.bench.turns import take_turns
from slant.runtime.execution import HeadOutput
from slant.runtime.graphs import Capture, cuda_capture

Arguments = tuple[Any, ...]
Body = Callable[[], Any]
Sample = Callable[[], float]
"""Runs a loop once and returns the seconds of one call in it."""

TURN = 2e-3  # seconds a loop should take at least, so that the events' resolution of half a microsecond is nothing
FEWEST, MOST = 7, 200  # samples
MOST_CALLS = 256
MOST_SETS = 32
KERNELS = ("_rms_norm_kernel", "_serial_kernel", "sm90_xmma_gemm_bf16", "flash_fwd_kernel", "Memcpy HtoD")


class Kernel(NamedTuple):
    """What a profile says of one kernel or copy: its name, how often it ran, and its seconds in all."""

    name: str
    calls: int
    seconds: float


class DryRun:
    """The CPU in a GPU's place: runs everything and reports no time, no memory and no kernel's share (NaN).

    ``first`` keeps the arguments and results of its first loop.
    """

    def __init__(self) -> None:
        self.place = torch.device("cpu")
        self.first: list[Any] = []

    def loop(self, run: Callable[..., Any], sets: Sequence[Arguments], captured: bool) -> Sample:
        results = [(arguments, run(*arguments)) for arguments in sets]
        self.first = self.first or results
        return lambda: math.nan

    def seconds(self, body: Body) -> float:
        body()
        return math.nan

    def held(self) -> float:
        return math.nan

    def peak(self, body: Body) -> float:
        body()
        return math.nan

    def kernels(self, body: Body) -> list[Kernel]:
        body()
        return [Kernel(name, 1, math.nan) for name in KERNELS]

    def capture(self) -> Capture:
        """Replays read and write the memory that the recording saw, and compute again."""

        def captured(compute: Callable[[], HeadOutput]) -> tuple[Callable[[], None], HeadOutput]:
            answers = compute()

            def replay() -> None:
                for place, value in zip(answers, compute(), strict=True):
                    place.copy_(value)

            return replay, answers

        return captured

    def free(self) -> None:
        """Nothing is cached."""


class Gpu(DryRun):
    """The current CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.device("cuda", torch.cuda.current_device())

    def loop(self, run: Callable[..., Any], sets: Sequence[Arguments], captured: bool) -> Sample:
        """Warm up, then capture as many calls as ``TURN`` needs, or run them one by one if they cannot be captured."""
        for arguments in (*sets, *sets):
            run(*arguments)
        once = self._between_events(lambda: [run(*arguments) for arguments in sets])
        rounds = max(1, min(math.ceil(TURN / once), MOST_CALLS // len(sets)))

        def calls() -> None:
            for _ in range(rounds):
                for arguments in sets:
                    run(*arguments)

        body: Body = calls
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                calls()
            body = graph.replay
        self._between_events(body)
        return lambda: self._between_events(body) / (rounds * len(sets))

    @staticmethod
    def _between_events(body: Body) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        body()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def seconds(self, body: Body) -> float:
        """Wall-clock seconds from an idle device to an idle device."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        body()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def held(self) -> int:
        """Bytes of live tensors and libraries' workspaces, without the context and the allocator's free blocks."""
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def peak(self, body: Body) -> int:
        """The most bytes of live tensors while ``body`` runs."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        body()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def kernels(self, body: Body) -> list[Kernel]:
        """All that ran on the device; nothing where the profiler is not allowed to look."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        for _ in range(2):  # the first profile of a process also starts the profiler
            with torch.profiler.profile(activities=activities) as profile:
                body()
                torch.cuda.synchronize()
        on_device = [e for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        return [Kernel(e.key, e.count, 1e-6 * e.self_device_time_total) for e in on_device]

    def capture(self) -> Capture:
        return cuda_capture(self.place)

    def free(self) -> None:
        """Give cached memory back, so that the next model finds it in one piece."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def turns(samples: Mapping[str, Sample], seconds: float, fewest: int = FEWEST) -> dict[str, list[float]]:
    """Samples of each loop, taken in turn until each has had about ``seconds``; a first one is not kept."""
    first = max(max(TURN, sample()) for sample in samples.values())
    return in_turn(lambda sample: sample(), samples, max(fewest, min(MOST, int(seconds / first))))


def in_turn(seconds: Callable[[Body], float], bodies: Mapping[str, Body], count: int) -> dict[str, list[float]]:
    """What ``seconds`` says of ``count`` calls of each body, in turn."""
    return take_turns(bodies, dict.fromkeys(bodies, count), dict.fromkeys(bodies, math.inf), seconds)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dataclasses."""
    if is_dataclass(value):
        value = [getattr(value, part.name) for part in fields(value)]
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def held(values: Any) -> int:
    """Bytes of all tensors in ``values``, each once."""
    return sum({(tensor.data_ptr(), tensor.shape): tensor.nbytes for tensor in tensors(values)}.values())


def input_sets(make: Callable[[], Arguments], size: int, cache: int) -> list[Arguments]:
    """Enough argument sets that a set has left a cache of ``cache`` bytes before its turn comes again."""
    return [make() for _ in range(min(MOST_SETS, 1 + math.ceil(2 * cache / size)))]


@dataclass(frozen=True)
class Limits:
    """What the device reached in this run: bytes read plus written by a kernel, FLOPs in a bf16 matrix product."""

    bytes_per_s: float
    flops_per_s: float

    def floor(self, size: int, flops: int) -> float:
        """Seconds below which no version runs."""
        return max(size / self.bytes_per_s, flops / self.flops_per_s)

    def binds(self, size: int, flops: int) -> str:
        return "bytes" if size / self.bytes_per_s >= flops / self.flops_per_s else "flops"

    @classmethod
    def measure(cls, device: DryRun, copied: int = 1 << 30, side: int = 8192) -> Limits:
        """Medians, on random data: a product of zeros runs faster than one of numbers.

        The bytes are moved by an elementwise kernel, as ours do: an H200 copied at 2.7 TB/s in a graph, where its
        kernels moved 4.2.
        """
        source = torch.randint(1 << 30, (copied // 4,), dtype=torch.int32, device=device.place)
        place = torch.empty_like(source)
        copy = device.loop(lambda x: torch.neg(x, out=place), [(source,)], captured=True)
        a, b = torch.randn(2, side, side, dtype=torch.bfloat16, device=device.place)
        product = device.loop(torch.mm, [(a, b)], captured=True)
        samples = turns({"copy": copy, "product": product}, seconds=0.5)
        return cls(2 * copied / median(samples["copy"]), 2 * side**3 / median(samples["product"]))


NO_LIMITS = Limits(math.inf, math.inf)
