"""Timing by turns: what is compared is run in turn over the whole time, so that a drift of the machine meets it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key")
Run = Callable[[], object]
FEWEST, MOST = 2, 200  # calls of one contender beyond the first
ENOUGH = {90: 10, 99: 100}  # calls that a percentile needs: of fewer it would be the slowest call by another name


class Watch:
    """Times a call. On a GPU what was queued before is done when the time starts, and the call's own work at its end.

    ``now`` gives seconds.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._now = device, now

    def __call__(self, run: Run) -> float:
        """Seconds of one call."""
        self._wait()
        start = self._now()
        run()
        self._wait()
        return self._now() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(frozen=True)
class Spread:
    """Percentiles of the seconds of ``calls`` calls; p90 and p99 are None where there are too few of them."""

    calls: int
    least: float
    p25: float
    p50: float
    p75: float
    p90: float | None
    p99: float | None
    most: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        """Raises ValueError without any."""
        if not seconds:
            raise ValueError("there is no spread of no calls")
        found = {q: float(np.percentile(seconds, q)) for q in (25, 50, 75, 90, 99)}
        tails = {q: found[q] if len(seconds) >= needed else None for q, needed in ENOUGH.items()}
        middle = found[25], found[50], found[75]
        return cls(len(seconds), min(seconds), *middle, tails[90], tails[99], max(seconds))

    def per_second(self, amount: float) -> dict[str, Any]:
        """The median rate of calls that each do ``amount`` of something, with its quartiles."""
        return {"calls": self.calls, "p25": amount / self.p75, "p50": amount / self.p50, "p75": amount / self.p25}


def calls(first: float, seconds: float) -> int:
    """How many calls of ``first`` seconds fill ``seconds``, within ``FEWEST`` and ``MOST``."""
    return max(FEWEST, min(MOST, int(seconds / max(first, 1e-9))))


def order(planned: Mapping[Key, int]) -> list[Key]:
    """Keys in the order of their calls: ``planned`` calls of each, spread evenly from the beginning to the end."""
    places = [((call + 0.5) / count, i, key) for i, (key, count) in enumerate(planned.items()) for call in range(count)]
    return [key for _, _, key in sorted(places, key=lambda place: place[:2])]


def take_turns(
    contenders: Mapping[Key, Run],
    planned: Mapping[Key, int],
    budgets: Mapping[Key, float],
    watch: Watch,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Key, list[float]]:
    """Seconds of the planned calls, by contender; ``progress`` is called with (calls done, calls in all).

    What has used up its budget of seconds, as its calls grew slower than the first, is called no more once it has had
    ``FEWEST`` calls.
    """
    samples: dict[Key, list[float]] = {key: [] for key in planned}
    turns = order(planned)
    for done, key in enumerate(turns, 1):
        if len(samples[key]) < FEWEST or sum(samples[key]) < budgets[key]:
            samples[key].append(watch(contenders[key]))
        progress(done, len(turns))
    return samples
