"""Predictions read from a table: found by their column names, matched to the labelled rows, and checked one by one.

A table as ``slant score`` writes it has p0, p1 ... or only label or label_name, perhaps behind a prefix. Probabilities
are used as they are: one that is not a number from 0 to 1 is an error of its row, and none is scaled to sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slant.errors import TableError
from slant.evaluation.formatting import beginning
from slant.prompt.prompt import DEFAULT_LABELS
from slant.tables.labelled import NO_LABEL, LabelledTexts, find_label, spelled, spellings
from slant.tables.read import ENDINGS, PACKED

Values = tuple[object, ...]

MOST_LABELS = 100  # a column of identifiers has more, and would take forever


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one model says of n rows: probabilities float64 ``[n, k]`` or labels int64 ``[n]``.

    ``errors`` say why a row has no answer (empty: all have one), and such a row holds NaN or -1. ``contradicted`` rows
    have a label column that differs from their most probable label; the latter is evaluated.
    """

    name: str
    answers: NDArray
    errors: tuple[str | None, ...] = ()
    contradicted: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """Columns of answers as written: any of probabilities (one column a label), labels and names; and row errors."""

    name: str
    probabilities: tuple[Values, ...]
    labels: Values | None
    names: Values | None
    errors: tuple[str | None, ...]

    @classmethod
    def find(cls, table: LabelledTexts, name: str, prefix: str = "", gold: str | None = None) -> Answered:
        """The answers among a table's columns, none of which is the column ``gold``; raises TableError without any."""
        columns = {key: values for key, values in table.columns.items() if key != gold}
        width = next(i for i in count() if f"{prefix}p{i}" not in columns)
        labels, names = columns.get(prefix + "label"), columns.get(prefix + "label_name")
        if width < 2 and labels is None and names is None:
            raise TableError(
                f"{table.source} has no answers: neither {prefix}p0, {prefix}p1 ... nor {prefix}label or "
                f"{prefix}label_name; its columns are: {', '.join(table.columns)}."
            )
        written = columns.get(prefix + "error", (None,) * len(table.errors))
        errors = tuple(read or spelled(error) or None for read, error in zip(table.errors, written, strict=True))
        probabilities = tuple(columns[f"{prefix}p{i}"] for i in range(width)) if width > 1 else ()
        return cls(name, probabilities, labels, names, errors)

    def predictions(self, labels: Mapping[str, str]) -> Predictions:
        """The answers, checked, over ``labels`` (answer to name, in class order). Raises TableError if k is another."""
        k = len(labels)
        if len(self.probabilities) not in (0, k):
            raise TableError(f"{self.name} has probabilities of {len(self.probabilities)} labels, not of {k}.")
        known = spellings(tuple(labels), tuple(labels.values()))
        written = (self.names if self.labels is None else self.labels) or (None,) * len(self.errors)
        errors, contradicted = list(self.errors), 0
        answers = np.full((len(errors), k), np.nan) if self.probabilities else np.full(len(errors), NO_LABEL)
        for row, value in enumerate(written):
            label, values = find_label(value, known), [column[row] for column in self.probabilities]
            if not values and label in (None, NO_LABEL):
                errors[row] = errors[row] or (f"{value!r} is no label." if label is None else "there is no label.")
            errors[row] = errors[row] or _problem(values)
            if errors[row] is None:
                answers[row] = np.array(values, np.float64) if values else label
                if values and label not in (None, NO_LABEL):
                    contradicted += bool(answers[row, label] < answers[row].max())
        return Predictions(self.name, answers, tuple(errors), contradicted)


def locate(
    spec: str, table: LabelledTexts, *, gold: str, id_column: str | None, prefix: str = "", encoding: str = "utf-8"
) -> tuple[Answered, int]:
    """The answers that ``spec`` names, row for row of ``table``, and how many rows of theirs are not in it.

    spec: the path of a table; or a column of ``table``; or what its columns p0, p1 ... begin with. Rows are matched by
    ``id_column``, without one by their order. Raises TableError if there is no such thing, or the rows do not match.
    """
    path, source = Path(spec), Path(table.source)
    if not path.is_file():
        if spec in table.columns and spec != gold:
            return Answered(spec, (), table.columns[spec], None, table.errors), 0
        if path.suffix.lower() in {*ENDINGS, *PACKED}:
            raise TableError(f"{spec} does not exist.")
        return Answered.find(table, f"{table.source}, {spec}" if spec else table.source, spec, gold), 0
    if source.is_file() and path.samefile(source):
        return Answered.find(table, spec, prefix, gold), 0
    other, more = LabelledTexts.read(spec, text_column=None, encoding=encoding, keep=None, option=None), 0
    behind = [name[:-2] for name in other.columns if name.endswith("p0") and f"{name[:-2]}p1" in other.columns]
    if not Answered.find(other, spec, prefix).probabilities and behind:
        # Else a copied gold label would be evaluated against itself.
        raise TableError(
            f"{spec} has probabilities behind {behind[0]!r}: give --prefix {behind[0]}, or leave them out."
        )
    if id_column is not None:
        mine, theirs = _by_id(table, id_column), _by_id(other, id_column)
        places = dict.fromkeys(range(len(table.errors))) | {row: theirs.get(name) for name, row in mine.items()}
        other, more = _taken(other, list(places.values())), len(theirs.keys() - mine.keys())
    elif len(other.errors) != len(table.errors):
        raise TableError(
            f"{table.source} has {len(table.errors):,} rows and {spec} has {len(other.errors):,}: "
            "match them with --id-column, or give tables of the same rows."
        )
    return Answered.find(other, spec, prefix), more


def settle_labels(answered: Sequence[Answered], gold: Sequence[object]) -> Mapping[str, str]:
    """Answers and names, in class order, of tables without a model that would say; ``gold`` as written.

    There are as many as probabilities, or as the largest label needs. Names are slant's own where only those occur,
    otherwise those that stand beside their numbers in the tables. Raises TableError if that leaves a name without its
    number: only the user knows the order.
    """
    widths = {len(one.probabilities) for one in answered} - {0}
    words = {_number(value) for value in gold}
    names: dict[str, str] = {}
    for one in answered:
        nothing = (None,) * len(one.errors)
        for label, name, error in zip(one.labels or nothing, one.names or nothing, one.errors, strict=True):
            if error is None:
                words |= {_number(label), _number(name)}
                if one.names and _number(label).isdecimal():
                    names[_number(label)] = spelled(name)
    numbers = {int(word) for word in words if word.isdecimal()}
    named = {word.casefold() for word in words if word and not word.isdecimal()}
    ours = set(DEFAULT_LABELS.values())
    if named and named <= ours and widths <= {len(DEFAULT_LABELS)}:
        return DEFAULT_LABELS
    k = max(widths, default=max(numbers, default=-1) + 1)
    if k > MOST_LABELS:
        raise TableError(f"there is a label {k - 1:,}: is that the column of labels? The most is {MOST_LABELS}.")
    names = {str(i): names.get(str(i), str(i)) for i in range(max(k, 2))}
    if unknown := named - {name.casefold() for name in names.values()}:
        raise TableError(
            f"{beginning(min(unknown - ours or unknown), 40)!r} is no known label: give all names in their order with "
            '--labels, a JSON file like {"0": "far left", "1": "lean left"}.'
        )
    return names


def _number(value: object) -> str:
    return spelled(value).removesuffix(".0")


def _problem(values: Sequence[object]) -> str | None:
    for i, value in enumerate(values):
        if not spelled(value):
            return f"p{i} is missing."
        with suppress(TypeError, ValueError):
            if 0 <= float(value) <= 1:  # type: ignore[arg-type]
                continue
        return f"p{i} is {value!r}, not a number from 0 to 1."
    return None


def _by_id(table: LabelledTexts, id_column: str) -> dict[str, int]:
    """Rows by identifier; those without one, unreadable ones for example, match nothing."""
    rows: dict[str, int] = {}
    for row, value in enumerate(table.column(id_column, "for the identifiers")):
        name = spelled(value)
        if name in rows:
            raise TableError(f"{table.source} has the id {name!r} in rows {rows[name] + 1} and {row + 1}.")
        if name:
            rows[name] = row
    return rows


def _taken(table: LabelledTexts, rows: Sequence[int | None]) -> LabelledTexts:
    """These rows in this order, without texts; None is a row without an answer."""
    picked = {
        name: tuple(None if row is None else values[row] for row in rows) for name, values in table.columns.items()
    }
    missing = "there is no prediction with its id."
    return replace(table, columns=picked, errors=tuple(missing if row is None else table.errors[row] for row in rows))
