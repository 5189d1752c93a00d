"""The command ``slant demo``, and how it shows a passage: its probabilities as bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slant.demo import FOLDER, passages
from slant.errors import SlantError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from slant.scores import Score

NARROWEST, WIDEST = 20, 120  # columns; narrower tables are cut off, longer lines are hard to read
BLOCKS = " ▏▎▍▌▋▊▉"  # eighths of a column
COLOURS = ("#e08214", "#fdb863", "#a8a8a8", "#b2abd2", "#8073ac")  # diverging, and no party's colours


def demo() -> None:
    """Score the bundled passages with the bundled checkpoint."""
    from slant.cli.output import terminal
    from slant.cli.progress import rate
    from slant.engine import Engine

    console = terminal()
    engine = Engine.load(FOLDER)
    engine.warmup()
    bundled = passages()
    tokens = as_written = 0
    start = time.perf_counter()
    # A small window, so that the first passages show while the others are scored.
    for one, score in zip(bundled, engine.stream([one["text"] for one in bundled], window=8), strict=True):
        if score.error:
            raise SlantError(f"the bundled checkpoint does not work here: {score.error}")
        tokens += score.tokens
        as_written += score.label_name == one["leaning"]
        console.print(passage(one["text"], score, engine.labels, console))
        console.print()
    seconds, texts = time.perf_counter() - start, len(bundled)
    rates = f"{rate(texts / seconds)} texts/s, {rate(tokens / seconds)} tokens/s."
    console.print(f"{texts} texts in {seconds:.2f} s: {rates}", style="bold")
    console.print(f"{as_written} of {texts} got the label they were written for.")
    console.print("This small checkpoint is a demonstration, not a political instrument.", style="italic")


def passage(text: str, score: Score, labels: Sequence[str], console: Console) -> RenderableType:
    """The beginning of a text with its label and expected score, beside a bar for each label."""
    from rich.table import Table
    from rich.text import Text

    width = max(min(console.width, WIDEST), NARROWEST)
    names = max(map(len, labels))
    left = width // 2 if width > 100 else width * 9 // 20
    bar = max(0, width - left - names - len("      100.0%"))
    colours = [COLOURS[i * (len(COLOURS) - 1) // (len(labels) - 1)] for i in range(len(labels))]
    verdict = Text.assemble((score.label_name, f"bold {colours[score.label]}"), f"  expected {score.expected:.2f}")
    bars = Text("\n").join(
        Text.assemble(
            (name.ljust(names), weight), "  ", (_bar(float(p), bar, console), colours[i]), (f"  {p:6.1%}", weight)
        )
        for i, (name, p) in enumerate(zip(labels, score.probabilities, strict=True))
        for weight in ["bold" if i == score.label else "dim"]
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(width=left)
    table.add_column(width=width - left - 2)
    beginning = _beginning(text, left, max(1, len(labels) - 2), console)
    table.add_row(Text("\n").join([beginning, Text(), verdict]), bars)
    return table


def _beginning(text: str, width: int, height: int, console: Console) -> Text:
    from rich.text import Text

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
