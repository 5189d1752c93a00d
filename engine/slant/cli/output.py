"""Where a command's results go: the terminal, and files of figures beside it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def terminal() -> Console:
    """Standard output; characters that its encoding lacks become "?"."""
    from rich.console import Console

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    return Console(highlight=False)


def show(result: RenderableType) -> None:
    """Print a report."""
    terminal().print(result)


def say(message: str) -> None:
    """Print a message as one line on stderr."""
    print("slant:", " ".join(message.split()), file=sys.stderr)
