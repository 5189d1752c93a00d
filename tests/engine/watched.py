"""Stand-ins for an engine that tell what they scored, and jobs that are stopped, for the tests of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake import Engine

from slant.scores import Score
from slant.tables.bulk import score_table


class Watched(Engine):
    """Notes the texts that it scores; ``stop``: raises before that one."""

    def __init__(self, stop: str | None = None, name: str = "fake", **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[str] = []
        self.stop, self.name = stop, name

    def identity(self) -> dict[str, object]:
        return {**super().identity(), "model": self.name}

    def answer(self, text: object) -> Score:
        if isinstance(text, str):
            if text == self.stop:
                raise KeyboardInterrupt
            self.seen.append(text)
        return super().answer(text)


class Failing(Watched):
    """Answers NaN to texts with this word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def answer(self, text: object) -> Score:
        found = super().answer(text)
        return Score.not_finite(len(self.labels)) if isinstance(text, str) and self.word in text else found


def lines(path: Path, rows: int = 20, first: int = 0) -> Path:
    path.write_text("".join(f"text {i}\n" for i in range(first, first + rows)))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stopped(source: Path | list[Path] | str, target: Path, at: str = "text 9", **options: Any) -> None:
    """A job of windows of 4 rows that was interrupted."""
    with pytest.raises(KeyboardInterrupt):
        score_table(Watched(at), source, target, **{"window": 4, **options})
