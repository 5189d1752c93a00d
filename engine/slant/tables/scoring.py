"""Windows of rows in, the same windows with a score for each row out; of identical texts one is scored.

The engine gets one stream of all rows and may read ahead in it. A row that is not to be scored (it could not be read,
or its text is known) is in it as None, which keeps the answers in step with the rows: what is scored together depends
on the window alone, whether the job was stopped or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from slant.scores import Score, require_an_answer
from slant.tables.sources import Window
from slant.tables.store import Made, ScoreStore
from slant.tables.summary import Tally


@runtime_checkable
class Scorer(Protocol):
    """What a job needs of an engine. ``identity`` is everything that decides a text's score, by name."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def stable_margin(self) -> float | None: ...
    def identity(self) -> Mapping[str, object]: ...
    def stream(
        self, texts: Iterable[object], *, window: int = ..., progress: Callable[[int, int], None] = ...
    ) -> Iterator[Score]: ...


@dataclass(slots=True)
class Scored:
    """A window with a score for each row. Of its texts ``scored`` were, ``duplicates`` stood before in the job, and
    ``stored`` were known from other jobs; ``tokens`` are those that were scored.
    """

    window: Window
    scores: list[Score] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Asked:
    """A window as it is given to the engine: a key for each text, None for what is none, and what is known already."""

    window: Window
    keys: list[bytes | None]
    errors: list[str | None]
    known: dict[bytes, tuple[Score, Made]]
    fresh: dict[bytes, int]  # rows whose texts are scored


@dataclass(slots=True)
class Scoring:
    """``job`` names the job in the store. ``answered``: a text of it has an answer. ``again``: failures are tried anew.

    dedupe: score identical texts once.
    """

    engine: Scorer
    store: ScoreStore
    size: int
    tally: Tally
    job: str
    answered: bool = False
    again: bool = False
    dedupe: bool = True

    def windows(self, windows: Iterator[Window]) -> Iterator[Scored]:
        """The windows in their order. Raises CheckpointError if the model fails at all of the first one."""
        waiting: deque[_Asked] = deque()
        flying: set[bytes] = set()  # texts that are being scored

        def texts() -> Iterator[object]:
            for window in windows:
                asked = self._ask(window, flying)
                waiting.append(asked)
                self.tally.read, self.tally.share = self.tally.read + window.rows, window.share
                rows = set(asked.fresh.values())
                all_texts = (text for chunk in window.chunks for text in chunk.texts)
                for row, text in enumerate(all_texts):
                    yield text if asked.keys[row] is None or row in rows else None

        scores: list[Score] = []
        for score in self.engine.stream(texts(), window=self.size, progress=self.tally.add):
            scores.append(score)
            if len(scores) == len(waiting[0].keys):
                asked = waiting.popleft()
                yield self._answer(asked, scores)
                flying.difference_update(asked.fresh)
                scores = []
        if waiting:
            raise RuntimeError("the engine answered fewer texts than it was given")

    def _ask(self, window: Window, flying: set[bytes]) -> _Asked:
        keys: list[bytes | None] = []
        errors: list[str | None] = []
        for chunk in window.chunks:
            errors += chunk.errors
            for text in chunk.texts:
                keys.append(self.store.key(text) if isinstance(text, str) and self.dedupe else None)
        unique = [key for key in dict.fromkeys(keys) if key is not None and key not in flying]
        known = self.store.get(unique)
        if self.again:
            known = {key: answer for key, answer in known.items() if answer[0].error is None}
        fresh: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key is not None and key not in known and key not in flying:
                fresh.setdefault(key, row)
        flying.update(fresh)
        return _Asked(window, keys, errors, known, fresh)

    def _answer(self, asked: _Asked, scores: list[Score]) -> Scored:
        for row, error in enumerate(asked.errors):
            if error is not None:
                scores[row] = Score.failed(error, len(self.engine.labels))
        computed = [scores[row] for row, key in enumerate(asked.keys) if key is None or asked.fresh.get(key) == row]
        known = any(score.error is None for score, _ in asked.known.values())
        self.answered = self.answered or known or require_an_answer(computed)
        made = self.job, asked.window.index
        self.store.put({key: scores[row] for key, row in asked.fresh.items()}, made)
        answers = asked.known | {key: (scores[row], made) for key, row in asked.fresh.items()}
        missing = [key for key in asked.keys if key is not None and key not in answers]
        answers |= self.store.get(missing)  # of windows that were being scored when this one was read
        counted = {"scored": 0, "duplicates": 0, "stored": 0, "tokens": 0}
        seen: set[bytes] = set()
        for row, key in enumerate(asked.keys):
            mine = key is None or asked.fresh.get(key) == row
            if key is None:
                counted["scored"] += scores[row].error is None
                counted["tokens"] += scores[row].tokens
            else:
                scores[row], (job, index) = answers[key]
                if (job, index) == made and key not in seen:
                    counted["scored"] += 1
                    counted["tokens"] += scores[row].tokens
                else:
                    counted["duplicates" if job == self.job or key in seen else "stored"] += 1
                seen.add(key)
            if scores[row].error is not None:
                self.tally.add(1, errors=1)
            elif not mine:
                self.tally.add(1)
        self.tally.note_rate()
        return Scored(asked.window, scores, counted)
