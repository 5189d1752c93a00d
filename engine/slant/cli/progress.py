"""What the terminal shows: the progress of a bulk run, and a passage with its probabilities as bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from slant.scores import Score
from slant.tables.bulk import Summary

WIDEST = 120  # columns; longer lines are hard to read
BLOCKS = " ▏▎▍▌▋▊▉"  # eighths of a column
COLOURS = ("#e08214", "#fdb863", "#a8a8a8", "#b2abd2", "#8073ac")  # diverging, and no party's colours
REFRESH = 0.1  # seconds


class Progress:
    """A bar on stderr while it is a terminal, silence otherwise. First the model loads, then texts are scored."""

    def __init__(self, *, hidden: bool = False) -> None:
        console = Console(stderr=True)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rates]}"),
            bars.TimeRemainingColumn(),
            console=console,
            disable=hidden or not console.is_terminal,
        )
        self._task = self._bars.add_task("reading", total=None, rates="")
        self._next = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def loaded(self, done: int, total: int) -> None:
        """The model's blocks in memory."""
        self._bars.update(self._task, description="loading", completed=done, total=total)

    def quantized(self, done: int, total: int) -> None:
        """The tensors of a checkpoint that are in the artifact."""
        self._bars.update(self._task, description="quantizing", completed=done, total=total)

    def scored(self, summary: Summary) -> None:
        """The rows answered so far."""
        now = time.monotonic()
        if self._bars.disable or (now < self._next and summary.done != 1):
            return
        self._next = now + REFRESH
        rates = f"{_rate(summary.texts_per_second)} texts/s  {_rate(summary.tokens_per_second)} tokens/s"
        total = None if summary.done is None else 1.0
        self._bars.update(
            self._task, description=f"{summary.rows:,} rows", completed=summary.done or 0, total=total, rates=rates
        )


def passage(text: str, score: Score, labels: Sequence[str], console: Console) -> RenderableType:
    """The beginning of a text with its label and expected score, beside a bar for each label."""
    width = min(console.width, WIDEST)
    names = max(map(len, labels))
    left = width // 2 if width > 100 else width * 9 // 20
    bar = width - left - names - len("      100.0%")
    table = Table.grid(padding=(0, 2))
    table.add_column(width=left)
    table.add_column(width=width - left - 2)
    colours = [COLOURS[i * (len(COLOURS) - 1) // (len(labels) - 1)] for i in range(len(labels))]
    verdict = Text.assemble((score.label_name, f"bold {colours[score.label]}"), f"  expected {score.expected:.2f}")
    beginning = _beginning(text, left, max(1, len(labels) - 2), console)
    rows = []
    for i, (name, p) in enumerate(zip(labels, score.probabilities, strict=True)):
        weight = "bold" if i == score.label else "dim"
        percent = (f"  {p:6.1%}", weight)
        rows.append(
            Text.assemble((name.ljust(names), weight), "  ", (_bar(float(p), bar, console), colours[i]), percent)
        )
    table.add_row(Text("\n").join([beginning, Text(), verdict]), Text("\n").join(rows))
    return table


def closing(texts: int, as_written: int, tokens: int, seconds: float) -> RenderableType:
    """The last lines of the demo: how fast it was and what it is not."""
    rates = f"{_rate(texts / seconds)} texts/s, {_rate(tokens / seconds)} tokens/s"
    return Text.assemble(
        (f"{texts} texts in {seconds:.2f} s: {rates}.\n", "bold"),
        f"{as_written} of {texts} got the label they were written for.\n",
        ("This small checkpoint is a demonstration, not a political instrument.", "italic"),
    )


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _beginning(text: str, width: int, height: int, console: Console) -> Text:
    lines = Text(" ".join(text.split())).wrap(console, width)
    shown = lines[:height]
    if len(lines) > height:
        shown[-1].rstrip()
        shown[-1].truncate(width - 1)
        shown[-1].append("…")
    return Text("\n").join(shown + [Text()] * (height - len(shown)))


def _bar(p: float, width: int, console: Console) -> str:
    if console.options.ascii_only:
        return ("#" * round(p * width)).ljust(width)
    whole, eighths = divmod(round(p * width * 8), 8)
    return ("█" * whole + BLOCKS[eighths] * (eighths > 0)).ljust(width)
