"""The texts of a benchmark: bundled passages cut to an exact number of tokens, or a user's own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.demo import passages
from slant.errors import SlantError
from slant.prompt.prompt import Prompt

LENGTHS = (128, 512, 2048)  # tokens of a whole prompt
# Endings for a text that lacks a few tokens. A letter or a sign adds a token in any byte-pair vocabulary.
ENDS = (" the", " of", " a", " we", "s", "a", "z", "!", "?", "1", "%", ";", "é")
BACK = 8  # words that may be dropped for them
SHIFT = 37  # words between the beginnings of two texts; does not divide the number of words


@dataclass(frozen=True)
class Workload:
    """The texts of one call. ``kind``: "one text", "equal length", "mixture" or "input"."""

    name: str
    kind: str
    texts: tuple[str, ...]


class Writer:
    """Writes texts whose prompt has an exact number of tokens; ``least`` is that of a one-letter text."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self._words = " ".join(passage["text"] for passage in passages()).split()
        self.least = self._tokens("a")

    def lengths(self) -> tuple[int, ...]:
        """``LENGTHS``, each clipped to what a prompt can have."""
        most = self.prompt.max_tokens
        return tuple(sorted({max(self.least, min(length, most)) for length in LENGTHS}))

    def write(self, tokens: int, number: int = 0) -> str:
        """A text whose prompt has exactly ``tokens`` tokens; each ``number`` begins at another word.

        Raises SlantError for a length that no prompt can have, and if none was found.
        """
        if not self.least <= tokens <= self.prompt.max_tokens:
            raise SlantError(
                f"no text has a prompt of {tokens} tokens: the prompt alone takes {self.least}, and max_tokens is "
                f"{self.prompt.max_tokens}; give --lengths between them, or another --max-tokens."
            )
        first = SHIFT * number
        words = [self._words[(first + i) % len(self._words)] for i in range(tokens)]
        fitting = bisect_right(range(1, tokens + 1), tokens, key=lambda n: self._tokens(" ".join(words[:n])))
        # A sign may merge with the line breaks after it, and then an ending may not add exactly the tokens needed.
        for kept in range(fitting, max(fitting - BACK, 0) - 1, -1):
            text = self._completed(" ".join(words[:kept]) or "a", tokens)
            if text is not None:
                return text
        raise SlantError(f"no text was found whose prompt has exactly {tokens} tokens; give another length.")

    def _completed(self, text: str, tokens: int) -> str | None:
        """The text with endings that make exactly ``tokens``, None if there are none."""
        reached = self._tokens(text)
        while reached != tokens:
            longer = {size: text + end for end in ENDS if reached < (size := self._tokens(text + end)) <= tokens}
            if not longer:
                return None
            reached = min(longer)
            text = longer[reached]
        return text

    def _tokens(self, text: str) -> int:
        """Tokens of the prompt, including those beyond max_tokens."""
        (encoded,) = self.prompt.encode([text])
        if encoded.error is not None:
            raise SlantError(f"the prompt takes no text: {encoded.error}")
        return len(encoded.ids) + encoded.tokens_dropped


def workloads(writer: Writer, lengths: Sequence[int], counts: Sequence[int]) -> list[Workload]:
    """One text of each length, ``counts`` texts of the shortest, and a mixture of bundled passages."""
    shortest = min(lengths)
    written = [writer.write(shortest, number) for number in range(max(counts))]
    made = {f"1 x {length}": Workload(f"1 x {length}", "one text", (writer.write(length),)) for length in lengths}
    for count in counts:
        name = f"{count} x {shortest}"
        made.setdefault(name, Workload(name, "equal length", tuple(written[:count])))
    posts = tuple(passage["text"] for passage in passages()[::2])
    return [*made.values(), Workload(f"{len(posts)} posts", "mixture", posts)]


def own(prompt: Prompt, texts: Sequence[object]) -> Workload:
    """A user's texts that can be scored; raises SlantError if none can."""
    good = tuple(str(text) for text, row in zip(texts, prompt.encode(texts), strict=True) if row.error is None)
    if not good:
        raise SlantError("the input has no text that can be scored; look at it with slant score.")
    return Workload(f"{len(good)} inputs", "input", good)


def read(source: str | Path, *, rows: int, **reading: Any) -> list[object]:
    """The readable texts of a table's first ``rows`` rows; ``reading`` is for ``open_table``. Raises TableError."""
    from slant.tables.read import open_table

    with open_table(source, window=rows, **reading) as table:
        for chunk in table.chunks:
            return [text for text, error in zip(chunk.texts, chunk.errors, strict=True) if error is None]
    return []
