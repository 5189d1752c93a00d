"""What a job counts, window by window: figures that are kept with each part, and added up.

Figures are numbers by name, or by name and value; two of them are added number by number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from slant.scores import Score
from slant.tables.rows import Chunk, as_text

Figures = dict[str, Any]

MOST_GROUPS = 1000  # values of a group column that are told apart; a column of identifiers has more
OTHERS = "(all others)"


@dataclass(frozen=True)
class Summary:
    """What was done so far: ``errors`` of the ``rows`` have no score.

    ``tokens`` were computed in ``seconds`` by this run, which found ``earlier`` rows answered and the part ``begun`` of
    the input done. ``done`` is the finished part of the input, 0 to 1, or None where its length is unknown.
    ``figures`` are those of all rows at the end of a job, ``problems`` the files that could not be read whole, and
    ``rates`` what share was done, and how many texts and tokens, after how many seconds.
    """

    rows: int
    errors: int
    tokens: int
    seconds: float
    done: float | None
    earlier: int = 0
    begun: float = 0.0
    figures: Figures = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    rates: tuple[tuple[float, int, int], ...] = ()

    @property
    def texts_per_second(self) -> float:
        return (self.rows - self.errors - self.earlier) / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """As long as the rest takes at the pace so far; None where that is not known yet."""
        if self.done is None or self.done <= self.begun:
            return None
        return self.seconds * (1 - self.done) / (self.done - self.begun)

    def json(self) -> dict[str, object]:
        """The figures of a finished job as JSON has them; ``expected`` is then a mean."""
        found = {"rows": self.rows, "errors": self.errors, **self.figures}
        answered = max(self.rows - self.errors, 1)
        found["expected"] = found.get("expected", 0.0) / answered
        for name in ("groups", "dates"):
            if name in found:
                found[name] = {
                    value: {"rows": of["rows"], "expected": of["expected"] / of["rows"]}
                    for value, of in sorted(found[name].items())
                }
        found["lengths"] = dict(sorted(found.get("lengths", {}).items(), key=lambda pair: int(pair[0])))
        rates = {"seconds": self.seconds, "texts_per_second": self.texts_per_second}
        return {**found, **rates, "tokens_per_second": self.tokens_per_second, "problems": list(self.problems)}


class Tally:
    """Counts texts as their batches are done, and rows with an error as their turn comes; reports both."""

    MOST_RATES = 240

    def __init__(self, progress: Callable[[Summary], None], earlier: Figures, begun: float | None) -> None:
        self._progress, self._start = progress, time.perf_counter()
        self.read, self.share = earlier.get("rows", 0), begun  # rows that were read, and how much of the input that is
        rows, errors = earlier.get("rows", 0), earlier.get("errors", 0)
        self.summary = Summary(rows, errors, 0, 0.0, begun, earlier=rows - errors, begun=begun or 0.0)
        self.rates: list[tuple[float, int, int]] = []

    def add(self, rows: int, tokens: int = 0, errors: int = 0) -> None:
        last = self.summary
        rows, errors, tokens = rows + last.rows, errors + last.errors, tokens + last.tokens
        done = last.done
        if self.share is not None:  # rows may differ in size, but what is done does not shrink
            done = max(done or 0.0, min(1.0, rows / max(self.read, 1) * self.share))
        seconds = time.perf_counter() - self._start
        self.summary = Summary(rows, errors, tokens, seconds, done, last.earlier, last.begun)
        self._progress(self.summary)

    def note_rate(self) -> None:
        """Remember how far it is; half of what is remembered is forgotten when it is too much."""
        now = self.summary
        self.rates.append((now.seconds, now.rows - now.errors - now.earlier, now.tokens))
        if len(self.rates) > self.MOST_RATES:
            self.rates = self.rates[1::2]


def figures_of(
    chunks: Sequence[Chunk],
    scores: Sequence[Score],
    counted: Mapping[str, int],
    *,
    group_column: str | None = None,
    date_column: str | None = None,
) -> Figures:
    """The figures of one window; ``counted`` are more of them."""
    good = [score for score in scores if score.error is None]
    figures: Figures = {
        "rows": len(scores),
        "errors": len(scores) - len(good),
        **counted,
        "truncated": sum(score.truncated for score in good),
        "unstable": sum(score.stable is False for score in good),
        "expected": float(sum(score.expected for score in good)),
        "labels": {},
        "lengths": {},
    }
    for score in good:
        _count(figures["labels"], score.label_name)
        _count(figures["lengths"], str(1 << max(score.tokens - 1, 0).bit_length()))
    for name, column, value_of in (("groups", group_column, _group), ("dates", date_column, _day)):
        if column is not None:
            values = (value for chunk in chunks for value in chunk.column(column))
            figures[name] = by_value(map(value_of, values), scores)
    return figures


def by_value(values: Iterable[str], scores: Sequence[Score]) -> dict[str, Figures]:
    """Rows and sum of the expected scores, by value."""
    found: dict[str, Figures] = {}
    for value, score in zip(values, scores, strict=True):
        if score.error is None:
            add_up(found.setdefault(value, {}), {"rows": 1, "expected": score.expected})
    return found


def add_up(total: Figures, more: Figures) -> Figures:
    """Adds ``more`` to ``total``, and returns it."""
    for name, value in more.items():
        if isinstance(value, dict):
            inner = total.setdefault(name, {})
            if name == "groups":
                for group, of in value.items():
                    known = group if group in inner or len(inner) < MOST_GROUPS else OTHERS
                    add_up(inner.setdefault(known, {}), of)
            else:
                add_up(inner, value)
        else:
            total[name] = total.get(name, 0) + value
    return total


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _group(value: object) -> str:
    return (as_text(value) or "(empty)")[:100]


def _day(value: object) -> str:
    """The day of a date in ISO 8601, with or without a time behind it; empty for anything else."""
    try:
        return date.fromisoformat(str(value)[:10]).isoformat()
    except ValueError:
        return ""
