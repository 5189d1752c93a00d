"""The progress bar of all commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console

from slant.cli.output import say

if TYPE_CHECKING:
    from slant.tables.summary import Summary

REFRESH = 0.1  # seconds
FIRST_LINE, NEXT_LINE = 20.0, 60.0  # seconds, of a log file


class Progress(bars.Progress):
    """A bar on stderr for the stage that the command is at; where stderr is no terminal, a line a minute of scoring.

    ``keep``: leave the last bar on the screen at the end. ``hidden``: show nothing, as when rows go to the terminal.
    """

    def __init__(self, *, keep: bool = False, hidden: bool = False) -> None:
        console = Console(stderr=True)
        super().__init__(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rates]}"),
            bars.TimeRemainingColumn(),
            console=console,
            transient=not keep,
            disable=hidden or not console.is_terminal,
        )
        self._stage = "starting"
        self._bar = self.add_task(self._stage, total=None, rates="")
        self._lines = not hidden and not console.is_terminal
        self._next = time.monotonic() + FIRST_LINE if self._lines else 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` of a stage; a stage that is not the last one begins the bar anew."""
        self._begin(stage)
        self.update(self._bar, completed=done, total=total)

    def of(self, stage: str) -> Callable[[int, int], None]:
        """The same for one stage: takes (done, total)."""
        return partial(self, stage)

    def scored(self, summary: Summary) -> None:
        """The rows answered so far, of an input whose length may be unknown."""
        now = time.monotonic()
        if self._lines and now >= self._next:
            self._next = now + NEXT_LINE
            say(line(summary))
        if self.disable or (now < self._next and summary.done != 1):
            return
        self._next = now + REFRESH
        self._begin("scoring")
        self.update(
            self._bar,
            description=f"{summary.rows:,} rows",
            completed=summary.done or 0,
            total=None if summary.done is None else 1.0,
            rates=f"{rate(summary.texts_per_second)} texts/s  {rate(summary.tokens_per_second)} tokens/s",
        )

    def _begin(self, stage: str) -> None:
        if stage != self._stage:
            self.remove_task(self._bar)
            self._stage, self._bar = stage, self.add_task(stage, total=None, rates="")


def line(summary: Summary) -> str:
    """How far it is, for a log file."""
    done = "" if summary.done is None else f" ({summary.done:.1%})"
    left = "" if summary.seconds_left is None else f", {duration(summary.seconds_left)} left"
    rates = f"{rate(summary.texts_per_second)} texts/s, {rate(summary.tokens_per_second)} tokens/s"
    return f"{summary.rows:,} rows{done}, {rates}{left}"


def duration(seconds: float) -> str:
    """2 h 05 min, 12 min or 30 s."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def rate(number: float) -> str:
    """A rate with no more digits than it has meaning: 12,345, 12 or 1.2."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
