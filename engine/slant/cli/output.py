"""Where a command's results go: the terminal, and files beside it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slant.errors import SlantError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def say(message: str) -> None:
    """Print a message as one line on stderr."""
    with suppress(OSError):  # where stderr is full or its reader left, nobody can be told
        print("slant:", " ".join(message.split()), file=sys.stderr, flush=True)


class Notes(logging.Handler):
    """Says what the package logs as one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def terminal() -> Console:
    """Standard output; characters that its encoding lacks become "?"."""
    from rich.console import Console

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    return Console(highlight=False)


def show(result: RenderableType) -> None:
    """Print a report."""
    terminal().print(result)


def check_writable(outputs: Iterable[Path | None], *, inputs: Iterable[str] = ()) -> None:
    """Raise SlantError, before any work, for a report that cannot be written or would replace an input."""
    for target in outputs:
        if target is None:
            continue
        if target.is_dir():
            raise SlantError(f"{target} cannot be written: it is a folder.")
        if not target.parent.is_dir():
            raise SlantError(f"{target} cannot be written: {target.parent} is no folder.")
        if target.exists() and any(Path(read).exists() and target.samefile(read) for read in inputs):
            raise SlantError(f"{target} is the input; name another file for the report.")


def write(target: Path, content: str) -> None:
    """Replace a file at once, so that a reader finds the old one or the new one whole."""
    from slant.files import write_whole

    # Lone surrogates of an input text must not keep the report from being written.
    write_whole(target, content.encode(errors="replace"))


def write_reports(json_output: Path | None, figures: Any, html_output: Path | None, page: Callable[[], str]) -> None:
    """Write figures as JSON and a page as HTML, where a file is named for them."""
    if json_output is not None:
        write(json_output, json.dumps(figures, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    if html_output is not None:
        write(html_output, page())
