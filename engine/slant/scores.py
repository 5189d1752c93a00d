"""What the engine answers: one row per text, in the order the texts were given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slant.errors import CheckpointError

FAILED = -1  # the label of a row that has an error


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The answer for one text.

    ``logits`` and ``probabilities`` are float32 ``[n]`` over the n labels; ``margin`` is the largest probability minus
    the second; ``expected`` is the sum of i * p_i. ``tokens`` counts the prompt's tokens after truncation and
    ``tokens_dropped`` those that truncation removed from the article. ``special_tokens`` counts the special tokens that
    the text spells, such as "<|im_end|>", however they are read. With an ``error``, ``label`` is -1, ``label_name`` is
    empty and every figure is NaN; with ``model_failed`` the text is not to blame, as the model answered with NaN or
    infinity. ``stable`` says whether the margin exceeds the 99th percentile, over the texts of a certificate, of how
    far two labels' probabilities drifted apart: then the unquantized model most likely gives the same label. It is
    measured on those texts, not a promise; it is None where no certificate covers the score. Scores are equal if all of
    this is, NaN being equal to NaN.
    """

    label: int
    label_name: str
    expected: float
    margin: float
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    tokens: int
    truncated: bool
    tokens_dropped: int
    error: str | None
    stable: bool | None = None
    special_tokens: int = 0
    model_failed: bool = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Score):
            return NotImplemented
        return all(_same(mine, theirs) for mine, theirs in zip(_fields(self), _fields(other), strict=True))

    @classmethod
    def failed(cls, error: str, labels: int) -> Score:
        """The row of a text that could not be scored, for a model with ``labels`` labels."""
        nan = np.full(labels, np.nan, dtype=np.float32)
        return cls(FAILED, "", np.nan, np.nan, nan, nan, 0, False, 0, error)

    @classmethod
    def not_finite(cls, labels: int) -> Score:
        """The row of a text that the model answered with NaN or infinity."""
        error = "the model answered with NaN or infinity; check the checkpoint."
        return replace(cls.failed(error, labels), model_failed=True)

    @classmethod
    def of(
        cls,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        names: Sequence[str],
        *,
        tokens: int,
        dropped: int,
        stable_margin: float | None = None,
        special_tokens: int = 0,
    ) -> Score:
        """The row of a scored text: float32 ``[n]`` logits and their softmax, and the n labels' names.

        With a ``stable_margin`` the row is stable if its margin is larger.
        """
        label = int(probabilities.argmax())
        second, first = np.sort(probabilities)[-2:]
        margin = float(first - second)
        expected = float(probabilities.astype(np.float64) @ np.arange(len(names)))
        stable = None if stable_margin is None else margin > stable_margin
        return cls(
            label,
            names[label],
            expected,
            margin,
            probabilities,
            logits,
            tokens,
            dropped > 0,
            dropped,
            None,
            stable,
            special_tokens,
        )


class Scores(Sequence[Score]):
    """The answers for a list of texts: columns as arrays, rows by index or iteration.

    ``probabilities`` and ``logits`` are float32 ``[n, k]``, ``label`` int64 ``[n]``, ``expected`` and ``margin``
    float32 ``[n]``, ``tokens``, ``tokens_dropped`` and ``special_tokens`` int64 ``[n]``, ``truncated`` bool ``[n]``;
    ``label_name`` and ``error`` are lists. Rows with an error hold NaN and the label -1: ``ok`` is the boolean mask of
    the others. A column is made once and then kept.
    """

    def __init__(self, rows: Sequence[Score], labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Score]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return self.labels == other.labels and self._rows == other._rows

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Scores(self._rows[index], self.labels)
        return self._rows[index]

    def _column(self, name: str, dtype: type, width: int | None = None) -> NDArray:
        shape = (len(self), width) if width else (len(self),)
        return np.array([getattr(row, name) for row in self._rows], dtype=dtype).reshape(shape)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        return self._column("probabilities", np.float32, len(self.labels))

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        return self._column("logits", np.float32, len(self.labels))

    @cached_property
    def label(self) -> NDArray[np.int64]:
        return self._column("label", np.int64)

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        return self._column("expected", np.float32)

    @cached_property
    def margin(self) -> NDArray[np.float32]:
        return self._column("margin", np.float32)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        return self._column("tokens", np.int64)

    @cached_property
    def truncated(self) -> NDArray[np.bool_]:
        return self._column("truncated", np.bool_)

    @cached_property
    def tokens_dropped(self) -> NDArray[np.int64]:
        return self._column("tokens_dropped", np.int64)

    @cached_property
    def special_tokens(self) -> NDArray[np.int64]:
        return self._column("special_tokens", np.int64)

    @cached_property
    def label_name(self) -> list[str]:
        return [row.label_name for row in self._rows]

    @cached_property
    def error(self) -> list[str | None]:
        return [row.error for row in self._rows]

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        return np.array([row.error is None for row in self._rows], dtype=np.bool_)


def require_an_answer(scores: Iterable[Score]) -> bool:
    """Whether any text was answered; raises CheckpointError if the model failed and answered none."""
    failed = 0
    for score in scores:
        if score.error is None:
            return True
        failed += score.model_failed
    if failed:
        raise CheckpointError(
            f"the model answered every text so far ({failed:,}) with NaN or infinity, and the job ends here: load it "
            "with the weights fp32, and if that is how it was loaded, get the checkpoint again."
        )
    return False


def _fields(score: Score) -> tuple[object, ...]:
    return tuple(getattr(score, name) for name in Score.__slots__)


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    return one == other or (one != one and other != other)
