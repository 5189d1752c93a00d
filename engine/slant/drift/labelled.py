"""The texts of a drift check: a table read whole, with its gold labels where it has a column of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slant.drift.figures import NO_LABEL
from slant.drift.quality import Labels
from slant.errors import TableError
from slant.scores import Score, Scores
from slant.tables import format_of, open_table

WINDOW = 1024


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """``texts`` are None and ``errors`` say why where a row could not be read; ``values`` are the labels as written."""

    texts: tuple[object, ...]
    errors: tuple[str | None, ...]
    values: tuple[object, ...] | None

    @classmethod
    def read(
        cls,
        source: str | Path,
        *,
        text_column: str = "text",
        labels_column: str | None = None,
        input_format: str | None = None,
        encoding: str = "utf-8",
    ) -> LabelledTexts:
        """Read a CSV, JSON Lines, Parquet or lines table; raises TableError if it or a column cannot be read."""
        texts: list[object] = []
        errors: list[str | None] = []
        values: list[object] = []
        options = {"text_column": text_column, "encoding": encoding, "window": WINDOW, "fixed_columns": False}
        with open_table(source, format_of(source, input_format, "lines"), **options) as table:  # type: ignore[arg-type]
            if labels_column is not None and labels_column not in table.schema.names:
                listed = ", ".join(table.schema.names)
                raise TableError(f"{source} has no column {labels_column!r} for the labels; its columns are: {listed}.")
            for chunk in table.chunks:
                texts += chunk.texts
                errors += chunk.errors
                if labels_column is None:
                    continue
                if isinstance(chunk.rows, pa.RecordBatch):
                    values += chunk.rows.column(labels_column).to_pylist()
                else:
                    values += [row.get(labels_column) for row in chunk.rows]
        return cls(tuple(texts), tuple(errors), None if labels_column is None else tuple(values))

    def gold(self, answers: Sequence[str], names: Sequence[str]) -> Labels | None:
        """Class indices int64 ``[n]``: a value is an answer ("3", 3 or 3.0) or a label's name; empty is -1.

        Raises TableError for a value that is neither.
        """
        if self.values is None:
            return None
        known = {name.casefold(): i for i, name in enumerate(names)} | {answer: i for i, answer in enumerate(answers)}
        gold = np.full(len(self.values), NO_LABEL)
        for row, value in enumerate(self.values):
            if self.errors[row] is not None or value is None or str(value).strip() == "" or value != value:
                continue
            label = known.get(_spelled(value))
            if label is None:
                raise TableError(
                    f"row {row + 1} has the label {value!r}; the model's are {', '.join([*answers, *names])}."
                )
            gold[row] = label
        return gold

    def with_errors(self, scores: Scores) -> Scores:
        """The scores, but with the reader's own words in the rows that could not be read."""
        pairs = zip(scores, self.errors, strict=True)
        return Scores([s if e is None else Score.failed(e, len(scores.labels)) for s, e in pairs], scores.labels)


def _spelled(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()
