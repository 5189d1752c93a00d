"""Interleaved timing of systems on one workload, and what the times say.

A round asks every system once, in an order that moves on by one each round. Round 0 warms up: it counts only where it
stayed the only one. A system leaves the rounds before they would take it longer than its limit, and is not asked at all
where a single answer is predicted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from peers.process import Reply, WorkerError

Ask = Callable[[str], Reply]
"""One request of the workload to the system of this name; raises WorkerError."""


@dataclass
class Timing:
    """What a system took: seconds by round, its answers, its peak bytes, or why it has none (``status``)."""

    runs: dict[int, float] = field(default_factory=dict)
    answers: list[list[float]] | None = None
    peak_rss: int | None = None
    status: str = "ok"

    @property
    def measured(self) -> dict[int, float]:
        """Seconds by round, without the warm-up where there were more."""
        return {number: s for number, s in self.runs.items() if number or len(self.runs) == 1}


def rotated(systems: Sequence[str], number: int) -> list[str]:
    """The systems in the order of a round."""
    start = number % len(systems) if systems else 0
    return [*systems[start:], *systems[:start]]


def predict(history: Mapping[int, float], tokens: int) -> float | None:
    """Seconds for a workload, in proportion to the largest one measured with fewer tokens (or the smallest of all).

    history: seconds by tokens; None if it is empty.
    """
    if not history:
        return None
    known = max((n for n in history if n <= tokens), default=min(history))
    return history[known] * tokens / known


def measure(
    ask: Ask,
    systems: Sequence[str],
    predicted: Mapping[str, float | None],
    *,
    rounds: int,
    max_seconds: float,
    progress: Callable[[str], None] = lambda system: None,
) -> dict[str, Timing]:
    """Ask the systems in up to ``rounds`` measured rounds, each for at most ``max_seconds`` in all.

    A system is always measured once unless ``predicted`` says that this takes longer.
    """
    timings = {name: Timing() for name in systems}
    active = []
    for name in systems:
        expected = predicted.get(name)
        if expected is not None and expected > max_seconds:
            timings[name].status = f"skipped: predicted {expected:.0f} s"
        else:
            active.append(name)
    order = list(active)
    for number in range(rounds + 1):
        for name in rotated(order, number):
            timing = timings[name]
            if name not in active or (timing.runs and _next(timing) > max_seconds):
                continue
            progress(name)
            try:
                reply = ask(name)
                if not np.isfinite(reply.answers).all():
                    raise WorkerError("it answered with NaN or infinity.")
            except WorkerError as error:
                timing.status, timing.runs = f"failed: {error}", {}
                active.remove(name)
                continue
            timing.runs[number], timing.answers = reply.seconds, reply.answers
            timing.peak_rss = max(filter(None, (timing.peak_rss, reply.peak_rss)), default=None)
    return timings


def _next(timing: Timing) -> float:
    """Seconds in all if the system is asked once more."""
    return sum(timing.runs.values()) + max(timing.measured.values())


def ratio(system: Timing, base: Timing) -> float | None:
    """The median over common rounds of how much longer a system took than the base."""
    common = system.runs.keys() & base.runs.keys()
    rounds = common - {0} if len(common) > 1 else common
    return median(system.runs[number] / base.runs[number] for number in rounds) if rounds else None


def agreement(answers: Sequence[Sequence[float]] | None, truth: Sequence[Sequence[float]] | None) -> float | None:
    """The largest difference of the logits, each text's centred by their mean; None if one side is missing."""
    if not answers or not truth:
        return None
    ours, theirs = (np.asarray(each, dtype=np.float64) for each in (answers, truth))
    if ours.shape != theirs.shape:
        return None
    difference = (ours - ours.mean(-1, keepdims=True)) - (theirs - theirs.mean(-1, keepdims=True))
    return float(np.abs(difference).max())
