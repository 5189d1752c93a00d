"""The progress bar of all commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console

if TYPE_CHECKING:
    from slant.tables.bulk import Summary

REFRESH = 0.1  # seconds


class Progress(bars.Progress):
    """A bar on stderr for the stage that the command is at; nothing where stderr is no terminal.

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
        self._next = 0.0

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


def rate(number: float) -> str:
    """A rate with no more digits than it has meaning: 12,345, 12 or 1.2."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
