"""A cascade of two models: the second one scores again the texts whose label is not stable by the first.

Its time goes only where the drift of a quantized model may have flipped the label. Both models stay in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from slant.engine import Engine
from slant.errors import SlantError
from slant.inputs import texts_of
from slant.options import check_function, whole_number
from slant.scores import Score

log = logging.getLogger(__name__)


class Cascade:
    """Scores with ``first``, a certified model, and again with ``second`` where the margin is within its drift.

    Such a row holds the answer of ``second`` and stays marked as not ``stable``. Where ``second`` gives none, that of
    ``first`` stays, and a warning at the end counts these rows. Raises SlantError if ``first`` has no
    certificate for its prompt, or if the labels differ.
    """

    def __init__(self, first: Engine, second: Engine) -> None:
        if first.stable_margin is None:
            raise SlantError(
                f"{first.coverage.reason}, and without one no row is stable: slant drift --certify makes it."
            )
        if first.labels != second.labels:
            raise SlantError(f"the models have different labels: {first.labels} and {second.labels}.")
        self.first, self.second = first, second
        self.labels, self.stable_margin = first.labels, first.stable_margin

    def identity(self) -> dict[str, object]:
        """Those of both models."""
        second = {f"second {name}": value for name, value in self.second.identity().items()}
        return self.first.identity() | second

    def stream(
        self,
        texts: Iterable[object],
        *,
        window: int = 1024,
        progress: Callable[[int, int], None] = lambda texts, tokens: None,
    ) -> Iterator[Score]:
        """As ``Engine.stream``; a text that is scored twice counts once in ``progress``."""
        window = whole_number("window", window)
        check_function("progress", progress, "texts, tokens")
        return self._stream(texts_of([texts] if isinstance(texts, str) else texts), window, progress)

    def _stream(self, texts: Iterator[object], window: int, progress: Callable[[int, int], None]) -> Iterator[Score]:
        unanswered, error = 0, None
        while chunk := list(islice(texts, window)):
            scores = list(self.first.stream(chunk, window=window, progress=progress))
            unstable = [row for row, score in enumerate(scores) if score.stable is False]
            again = self.second.stream([chunk[row] for row in unstable], window=window)
            for row, score in zip(unstable, again, strict=True):
                if score.error is None:
                    scores[row] = replace(score, stable=False)
                else:
                    unanswered, error = unanswered + 1, score.error
            yield from scores
        if unanswered:
            log.warning(
                "the second model did not answer %d of the texts that are not stable, and the first one's answers "
                "stand; the last reason: %s",
                unanswered,
                error,
            )
