"""What the whole-model measurements ask of a GPU, apart from the model: time, memory, kernels and capture."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from slant.runtime.execution import Capture, cuda_capture

Body = Callable[[], Any]


class Kernel(NamedTuple):
    """What a profile tells of one kernel or copy: its name, how often it ran, and its seconds in all."""

    name: str
    calls: int
    seconds: float


class Device(Protocol):
    """The current GPU; the dry run replaces it by a CPU that tells no time."""

    place: torch.device

    def seconds(self, body: Body) -> float: ...
    def held(self) -> float: ...
    def peak(self, body: Body) -> float: ...
    def kernels(self, body: Body) -> list[Kernel]: ...
    def capture(self) -> Capture: ...
    def free(self) -> None: ...


class Gpu:
    """The current CUDA device."""

    def __init__(self) -> None:
        self.place = torch.device("cuda", torch.cuda.current_device())

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


@contextmanager
def no_synchronisation(place: torch.device) -> Iterator[None]:
    """Within it, whatever makes the host wait for the GPU is an error."""
    if place.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
