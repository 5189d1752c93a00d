"""Cutting an article so that its prompt has as many tokens as fit, and not one more.

Cutting merges or splits a few tokens, so a cut is never counted from its parts: its whole prompt is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW_CHARS = 8  # characters a token, generously: the first window to look for token boundaries in
SPARE = 64  # tokens a window must hold beyond the budget, so that its own cut end is out of the way
STEPS = 3  # corrections by the tokens missing or in excess before plain bisection

Spans = Callable[[str], list[tuple[int, int]]]
"""A piece of an article -> where the tokens of its prompt begin and end, in characters of the piece."""


class Cuts:
    """An article cut down to numbers of tokens: of its head or, for "middle", of its head and its tail."""

    def __init__(self, spans: Spans, article: str, budget: int, truncation: str) -> None:
        """budget: tokens beyond those of the template."""
        self._spans, self._article, self._budget = spans, article, budget
        self._ends = self._edges(budget + SPARE)
        self._starts = self._edges(budget + SPARE, last=True) if truncation == "middle" else []

    def longest(self, encode: Callable[[str], list[int]], limit: int) -> tuple[str, list[int]]:
        """The longest cut whose prompt ``encode`` gives at most ``limit`` ids, and these; both empty if none fits.

        The first guess is corrected by what it is off; bisection takes over where that would crawl, as the count jumps
        at a run of whitespace.
        """
        best: tuple[str, list[int]] = ("", [])
        budget, steps = self._budget, 0
        fits, exceeds = 0, budget + SPARE + 1
        while exceeds - fits > 1:
            kept = self._keep(budget)
            ids = encode(kept)
            spare = limit - len(ids)
            if spare >= 0:
                fits, best = budget, (kept, ids)
            else:
                exceeds = budget
            if spare == 0:
                break
            budget, steps = budget + spare, steps + 1
            if steps > STEPS or not fits < budget < exceeds:
                budget = (fits + exceeds) // 2
        return best

    def _keep(self, tokens: int) -> str:
        """The article cut down to about so many tokens."""
        article, ends, starts = self._article, self._ends, self._starts
        tail = min(tokens // 2, len(starts))
        stop = ends[min(tokens - tail, len(ends)) - 1]
        start = starts[-tail] if tail else len(article)
        return (article[:stop] + article[max(start, stop) :]).strip()

    def _edges(self, tokens: int, *, last: bool = False) -> list[int]:
        """Where at least the first ``tokens`` tokens of the article end, or the last ones start, in characters."""
        # offsets take more memory than tokens: ask for those of a window only, enlarged until it holds enough
        article, window = self._article, WINDOW_CHARS * tokens
        while True:
            window = min(window, len(article))
            first = len(article) - window if last else 0
            spans = self._spans(article[first : first + window])
            inside = [(max(start, 0), min(end, window)) for start, end in spans]
            edges = [first + (start if last else end) for start, end in inside if start < end]
            if len(edges) >= tokens or window == len(article):
                return edges
            window *= 4
