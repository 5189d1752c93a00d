"""Timing in turn: all contenders are called alternately over the whole time, so that drift of the machine hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Key = tuple[str, str]  # what is timed, and of which workload or kernel
Name = TypeVar("Name")
Run = Callable[[], object]
FEWEST, MOST = 2, 200  # calls of one contender beyond the first
ENOUGH = {90: 10, 99: 100}  # calls that a percentile needs: with fewer it would be the slowest call


@dataclass(frozen=True)
class Watch:
    """Times a call by the clock ``now``, in seconds; on a GPU it synchronizes before and after."""

    device: torch.device
    now: Callable[[], float] = time.perf_counter

    def __call__(self, run: Run) -> float:
        self._wait()
        start = self.now()
        run()
        self._wait()
        return self.now() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def spread(seconds: list[float]) -> dict[str, Any]:
    """Percentiles of the seconds of ``calls`` calls; p90 and p99 are None where there are too few of them.

    Raises ValueError without any.
    """
    if not seconds:
        raise ValueError("a spread needs at least one call; there are no calls")
    found: dict[str, Any] = {"calls": len(seconds), "least": min(seconds)}
    for q in (25, 50, 75, 90, 99):
        found[f"p{q}"] = float(np.percentile(seconds, q)) if len(seconds) >= ENOUGH.get(q, 1) else None
    return found | {"most": max(seconds)}


def per_second(spread: Mapping[str, Any], amount: float) -> dict[str, Any]:
    """The median rate of calls that each do ``amount`` of something, with its quartiles."""
    return {"calls": spread["calls"], **{f"p{q}": amount / spread[f"p{100 - q}"] for q in (25, 50, 75)}}


def calls(first: float, seconds: float) -> int:
    """The number of calls of ``first`` seconds that fill ``seconds``, from ``FEWEST`` to ``MOST``."""
    return max(FEWEST, min(MOST, int(seconds / max(first, 1e-9))))


def order(planned: Mapping[Name, int]) -> list[Name]:
    """Names in the order of their calls: ``planned`` calls of each, evenly spread."""
    places = [((call + 0.5) / count, i, key) for i, (key, count) in enumerate(planned.items()) for call in range(count)]
    return [key for _, _, key in sorted(places, key=lambda place: place[:2])]


def take_turns(
    contenders: Mapping[Name, Run],
    planned: Mapping[Name, int],
    budgets: Mapping[Name, float],
    watch: Watch,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, list[float]]:
    """Seconds of the planned calls, by contender; ``progress`` is called with (calls done, calls in all).

    A contender that has used up its budget of seconds, because its calls grew slower, is not called again after
    ``FEWEST`` calls.
    """
    samples: dict[Name, list[float]] = {key: [] for key in planned}
    turns = order(planned)
    for done, key in enumerate(turns, 1):
        if len(samples[key]) < FEWEST or sum(samples[key]) < budgets[key]:
            samples[key].append(watch(contenders[key]))
        progress(done, len(turns))
    return samples
