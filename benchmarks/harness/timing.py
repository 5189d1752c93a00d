"""Interleaved timing: what is compared takes turns, so that a change of the machine's speed meets all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from harness.process import Loaded, Reply, WorkerError
from harness.rows import Row, percentiles


def rounds(names: Sequence[str], count: int, run: Callable[[str, int], None]) -> None:
    """Call ``run(name, round)`` for every name in each round: at first in the given order, then in a random one."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for i in rng.permutation(len(names)) if number else range(len(names)):
            run(names[i], number)


@dataclass
class Timing:
    """What a system took: seconds by round, its answers, its peak bytes, or why it has none (``status``).

    Round 0 is the warm-up: it counts only where it stayed the only one.
    """

    runs: dict[int, float] = field(default_factory=dict)
    answers: list[list[float]] | None = None
    peak_rss: int | None = None
    status: str = "ok"

    @property
    def measured(self) -> dict[int, float]:
        """Seconds by round, without the warm-up where there were more."""
        return {number: s for number, s in self.runs.items() if number or len(self.runs) == 1}

    def row(self, loaded: Loaded | None, texts: int) -> Row:
        """The fields of a result row; figures are None where nothing was measured."""
        seconds = percentiles(list(self.measured.values())) if self.runs else None
        return {
            "status": self.status,
            "texts": texts,
            "rounds": len(self.measured),
            "seconds": seconds,
            "texts_per_second": round(texts / seconds["p50"], 4) if seconds else None,
            "peak_rss": self.peak_rss,
            "rss_loaded": loaded and loaded.rss,
            "load_peak_rss": loaded and loaded.peak_rss,
            "load_s": loaded and round(loaded.load_s, 3),
            "versions": loaded and loaded.versions,
        }


def measure(
    ask: Callable[[str], Reply],
    systems: Sequence[str],
    predicted: Mapping[str, float | None],
    *,
    count: int,
    max_seconds: float,
    progress: Callable[[str], None] = lambda system: None,
) -> dict[str, Timing]:
    """Ask the systems in a warm-up and up to ``count`` rounds, each for at most ``max_seconds`` in all.

    A system is always measured once unless ``predicted`` says that this takes longer. One that fails (WorkerError) or
    answers with NaN has a status and no seconds.
    """
    timings = {name: Timing() for name in systems}
    for name, timing in timings.items():
        if (expected := predicted.get(name)) is not None and expected > max_seconds:
            timing.status = f"skipped: predicted {expected:.0f} s"

    def run(name: str, number: int) -> None:
        timing = timings[name]
        too_long = timing.runs and sum(timing.runs.values()) + max(timing.measured.values()) > max_seconds
        if timing.status != "ok" or too_long:
            return
        progress(name)
        try:
            reply = ask(name)
            if not np.isfinite(reply.answers).all():
                raise WorkerError("it answered with NaN or infinity.")
        except WorkerError as error:
            timing.status, timing.runs = f"failed: {error}", {}
            return
        timing.runs[number], timing.answers = reply.seconds, reply.answers
        timing.peak_rss = max(filter(None, (timing.peak_rss, reply.peak_rss)), default=None)

    rounds(systems, count + 1, run)
    return timings


def ratio(system: Timing, base: Timing) -> float | None:
    """The median over common rounds of how much longer a system took than the base."""
    common = system.runs.keys() & base.runs.keys()
    numbers = common - {0} if len(common) > 1 else common
    return median(system.runs[number] / base.runs[number] for number in numbers) if numbers else None
