"""A stand-in for Engine that answers from the text alone and at once, for the tests of tables and of the command.

Run as a script it is ``slant`` with the fake engine: ``python fake.py score ...``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import ModuleType
from zlib import crc32

import numpy as np

from slant.scores import Score

LABELS = ("far left", "lean left", "center", "lean right", "far right")


class Engine:
    def __init__(self, labels: tuple[str, ...] = LABELS, delay: float = 0.0) -> None:
        self.labels, self.delay = labels, delay
        self.stable_margin = None

    @classmethod
    def load(cls, model: str, options: object = None, **fields: object) -> Engine:
        if model == "broken":
            raise ZeroDivisionError("two\nlines")
        return cls(delay=float(os.environ.get("FAKE_DELAY", "0")))

    def warmup(self) -> None:
        """Nothing to warm."""

    def identity(self) -> dict[str, object]:
        return {"model": "fake", "labels": list(self.labels)}

    def stream(
        self,
        texts: Iterable[object],
        *,
        window: int = 1024,
        progress: Callable[[int, int], None] = lambda texts, tokens: None,
    ) -> Iterator[Score]:
        texts = iter(texts)
        while chunk := list(islice(texts, window)):
            time.sleep(self.delay)
            scores = [self.answer(text) for text in chunk]
            for score in scores:
                if score.error is None:
                    progress(1, score.tokens)
            yield from scores

    def answer(self, text: object) -> Score:
        try:
            if not isinstance(text, str):
                return Score.failed("The text is missing.", len(self.labels))
            seed = crc32(text.encode())
        except UnicodeEncodeError:
            return Score.failed("The text is not valid Unicode.", len(self.labels))
        logits = np.array([(seed >> i) % 17 / 4 for i in range(len(self.labels))], dtype=np.float32)
        powers = np.exp(logits - logits.max())
        return Score.of(logits, powers / powers.sum(), self.labels, tokens=len(text.split()), dropped=0)


if __name__ == "__main__":
    from slant.cli.start import main

    module = ModuleType("slant.engine")
    module.Engine = Engine  # type: ignore[attr-defined]
    sys.modules["slant.engine"] = module
    main()
