"""A table read whole: its texts, with their gold labels where it has a column of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slant.errors import TableError
from slant.scores import Score, Scores, require_an_answer
from slant.tables.columns import missing
from slant.tables.read import open_table

if TYPE_CHECKING:
    from slant.tables.bulk import Scorer

NO_LABEL = -1  # the class index of a row without a gold label
WINDOW = 1024


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their labels as written, ``values``, and ``columns`` of the table ``source``, which has ``names``.

    Where a row could not be read, its text is None and ``errors`` says why.
    """

    texts: tuple[object, ...]
    errors: tuple[str | None, ...]
    values: tuple[object, ...] | None = None
    source: str = ""
    names: tuple[str, ...] = ()
    columns: Mapping[str, tuple[object, ...]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        source: str | Path,
        *,
        text_column: str | None = "text",
        labels_column: str | None = None,
        input_format: str | None = None,
        encoding: str = "utf-8",
        delimiter: str | None = None,
        keep: Sequence[str] | None = (),
        option: str | None = "--input-format",
    ) -> LabelledTexts:
        """Read a table, and of its columns the labels and ``keep`` (None: all); the other arguments are those of
        ``open_table``.

        text_column: None to read no texts. Raises TableError if the table, or the column of labels, cannot be read.
        """
        texts: list[object] = []
        errors: list[str | None] = []
        needed = {name for name in (labels_column, *(keep or ())) if name}
        with open_table(
            source,
            input_format,
            text_column=text_column,
            encoding=encoding,
            delimiter=delimiter,
            window=WINDOW,
            needed=needed,
            option=option,
        ) as table:
            names = table.schema.names
            columns: dict[str, list[object]] = {
                name: [] for name in names if keep is None or name in keep or name == labels_column
            }
            for chunk in table.chunks:
                texts += chunk.texts
                errors += chunk.errors
                for name, values in columns.items():
                    values += chunk.column(name)
        found = {name: tuple(values) for name, values in columns.items()}
        read = cls(tuple(texts), tuple(errors), None, str(source), tuple(names), found)
        return read if labels_column is None else replace(read, values=read.column(labels_column, "for the labels"))

    def column(self, name: str, purpose: str) -> tuple[object, ...]:
        """The column, or a TableError that says what it was needed for."""
        if name not in self.columns:
            raise missing(self.source, name, self.names, purpose=f" {purpose}")
        return self.columns[name]

    def gold(self, answers: Sequence[str], names: Sequence[str]) -> NDArray[np.int64] | None:
        """Class indices int64 ``[n]``: a value is an answer ("3", 3 or 3.0) or a label's name; empty is -1.

        Raises TableError for a value that is neither.
        """
        if self.values is None:
            return None
        known = spellings(answers, names)
        gold = np.full(len(self.values), NO_LABEL)
        for row, value in enumerate(self.values):
            if self.errors[row] is not None:
                continue
            label = find_label(value, known)
            if label is None:
                listed = ", ".join(dict.fromkeys([*answers, *names]))
                raise TableError(f"row {row + 1} has the label {value!r}; known are {listed}.")
            gold[row] = label
        return gold

    def scored(self, engine: Scorer, progress: Callable[[int, int], None]) -> Scores:
        """All texts answered as one window, as ``Engine.score`` has it; progress is called with (done, total)."""
        done = 0

        def count(answered: int, tokens: int) -> None:
            nonlocal done
            done += answered
            progress(done, len(self.texts))

        window = max(len(self.texts), 1)
        return self.with_errors(Scores(list(engine.stream(self.texts, window=window, progress=count)), engine.labels))

    def with_errors(self, scores: Scores) -> Scores:
        """The scores, but with the reader's own words in the rows that could not be read.

        Raises CheckpointError if the model answered nothing but NaN or infinity.
        """
        require_an_answer(scores)
        pairs = zip(scores, self.errors, strict=True)
        return Scores([s if e is None else Score.failed(e, len(scores.labels)) for s, e in pairs], scores.labels)


def spellings(answers: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Class indices by the words that mean them, for ``find_label``; an answer wins over another label's name."""
    folded = [{word.strip().casefold(): i for i, word in enumerate(words)} for words in (names, answers)]
    return folded[0] | folded[1] | {answer: i for i, answer in enumerate(answers)}


def find_label(value: object, known: Mapping[str, int]) -> int | None:
    """The class index that ``value`` means, NO_LABEL if it is missing, None if it is no label."""
    word = spelled(value)
    whole = word.removesuffix(".0")  # how a table with gaps writes whole numbers
    return NO_LABEL if not word else known.get(word, known.get(word.casefold(), known.get(whole)))


def spelled(value: object) -> str:
    """A label or an identifier as a word: 3.0, 3 and " 3" are alike; missing (None, NaN or blank) is empty."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
