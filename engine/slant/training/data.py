"""Labelled tables to clean examples, and their split into training and validation.

A row is dropped and counted if its text or label is empty, or if an earlier row has the same text and label. All rows
of a text that comes with different labels are dropped: nobody knows which is right. So no text is twice in the data,
and none can be on both sides of the split. Rows that cannot be read, or have an unknown label, stop the run unless they
may be skipped; then they are dropped and counted as well.

Texts of one author are alike, and a model that has read some of them knows the author of the others: where the tables
say what belongs together, the split keeps it together, since else its validation would promise too much.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slant.errors import TableError
from slant.prompt.prompt import Prompt
from slant.tables.labelled import NO_LABEL, LabelledTexts, find_label, read_columns, spelled, spellings
from slant.tables.read import STANDARD

NO_TEXT, NO_GOLD = "empty text", "empty label"
UNREADABLE, UNKNOWN = "unreadable", "unknown label"
REPEATED, CONTRADICTED = "repeats an earlier row", "same text with another label"
PARTS = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts with labels: its file and how to read it."""

    path: str | Path
    text_column: str = "text"
    labels_column: str = "label"
    group_column: str | None = None
    input_format: str | None = None
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Example:
    """A clean row: its text without the spaces around it, its prompt's tokens int32 ``[tokens]``, its class.

    ``table`` counts the tables from 0, ``row`` the table's rows from 1. ``group`` is what the row belongs to; empty: to
    nothing.
    """

    text: str
    ids: NDArray[np.int32]
    truncated: bool
    label: int
    table: int
    row: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """The clean rows of all tables in their order, and how many others were dropped for which reason."""

    rows: tuple[Example, ...]
    dropped: Mapping[str, int]

    @classmethod
    def read(cls, tables: Sequence[Table], prompt: Prompt, *, skip_invalid: bool = False) -> Examples:
        """Read and clean. Raises TableError for a table that cannot be read, or a row as the module's words say."""
        dropped: Counter[str] = Counter()
        found: dict[str, list[Example]] = {}
        for index, table in enumerate(tables):
            if str(table.path) == STANDARD:
                raise TableError("training reads its tables twice, so none can be stdin; give a file's name.")
            for example in _clean(table, index, prompt, skip_invalid, dropped):
                found.setdefault(example.text, []).append(example)
        rows = []
        for same in found.values():
            if len({example.label for example in same}) > 1:
                dropped[CONTRADICTED] += len(same)
            else:
                rows.append(same[0])
                dropped[REPEATED] += len(same) - 1
        return cls(tuple(rows), {reason: count for reason, count in dropped.items() if count})

    def split(self, share: float, seed: int, names: Sequence[str]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Training and validation rows, each in the order of the tables.

        Of each label ``share`` of the rows, rounded, and at least one, go to validation: those whose texts hash lowest
        with the seed. So the split depends on the texts, the labels and the seed, and not on the order of the rows.
        With groups, whole groups go to validation instead, those that hash lowest until the share of all rows is
        reached, and the labels' shares are what comes of it.

        Raises TableError for no rows, for a single label, for a label with a single row, and for groups that leave a
        part without rows or the training without a label.
        """
        groups = [[example for example in self.rows if example.label == label] for label in range(len(names))]
        present = [name for name, group in zip(names, groups, strict=True) if group]
        if not present:
            raise TableError(f"no row is left to train on{self._why()}.")
        if len(present) == 1:
            raise TableError(f"every row has the label {present[0]}: there is nothing to tell apart{self._why()}.")
        if any(example.group for example in self.rows):
            return self._split_groups(share, seed, names)
        held: set[str] = set()
        for name, group in zip(names, groups, strict=True):
            if len(group) == 1:
                raise TableError(
                    f"the label {name} has 1 row, and the split needs 2: add rows, or remove this one{self._why()}."
                )
            count = min(max(1, round(share * len(group))), len(group) - 1) if group else 0
            ordered = sorted(group, key=lambda example: _draw(seed, example.text))
            held |= {example.text for example in ordered[:count]}
        train = tuple(example for example in self.rows if example.text not in held)
        return train, tuple(example for example in self.rows if example.text in held)

    def _split_groups(
        self, share: float, seed: int, names: Sequence[str]
    ) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """A row without a group is a group of its own."""
        sizes = Counter(example.group or example.text for example in self.rows)
        held: set[str] = set()
        count = 0
        for group in sorted(sizes, key=lambda group: _draw(seed, group)):
            if held and count + sizes[group] / 2 > share * len(self.rows):
                break
            held.add(group)
            count += sizes[group]
        parts: tuple[list[Example], list[Example]] = ([], [])
        for example in self.rows:
            parts[(example.group or example.text) in held].append(example)
        missing = {example.label for example in self.rows} - {example.label for example in parts[0]}
        if missing:
            listed = ", ".join(names[label] for label in sorted(missing))
            raise TableError(
                f"the groups leave no training row of {listed}: give more groups, another seed or a smaller share of "
                f"validation{self._why()}."
            )
        return tuple(parts[0]), tuple(parts[1])

    def _why(self) -> str:
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.dropped.items())
        return f" (rows dropped: {counts})" if counts else ""


def split_csv(parts: Sequence[Sequence[Example]], tables: Sequence[Table], answers: Sequence[str]) -> bytes:
    """The split as a CSV file: table, row (from 1, without the header), label and part of each example."""
    lines = [
        (example.table, example.row, Path(tables[example.table].path).name, answers[example.label], part)
        for part, examples in zip(PARTS, parts, strict=True)
        for example in examples
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "file", "row", "label", "part"))
    writer.writerows((table, file, row, label, part) for table, row, file, label, part in sorted(lines))
    return out.getvalue().encode()


def _clean(table: Table, index: int, prompt: Prompt, skip_invalid: bool, dropped: Counter[str]) -> list[Example]:
    columns = [table.labels_column, *([table.group_column] if table.group_column else [])]
    found = read_columns(
        table.path, table.text_column, input_format=table.input_format, encoding=table.encoding, keep=columns
    )
    read = LabelledTexts.of(found, table.labels_column)
    groups = found.column(table.group_column, "for the groups") if table.group_column else (None,) * len(found)
    assert read.values is not None
    known = spellings(tuple(prompt.labels), prompt.label_names)
    examples = []
    rows = zip(read.texts, read.errors, read.values, groups, prompt.encode(read.texts), strict=True)
    for row, (text, error, value, group, encoded) in enumerate(rows, 1):
        label, reason, problem = _judge(text, error, encoded.error, value, known)
        if problem is not None and not skip_invalid:
            raise TableError(
                f"{table.path}, row {row}: {problem.rstrip('.')}; correct it, or drop such rows with --skip-invalid."
            )
        if reason is not None:
            dropped[reason] += 1
        else:
            cut = encoded.tokens_dropped > 0
            examples.append(Example(str(text).strip(), encoded.ids, cut, label, index, row, spelled(group)))
    return examples


def _judge(
    text: object, read_error: str | None, prompt_error: str | None, value: object, known: Mapping[str, int]
) -> tuple[int, str | None, str | None]:
    """A row's class; if it is to be dropped, the reason; and what is wrong, if that is more than an empty cell.

    read_error is the reader's, prompt_error the prompt's.
    """
    if read_error is not None:
        return NO_LABEL, UNREADABLE, read_error
    if text is None or text != text or (isinstance(text, str) and not text.strip()):
        return NO_LABEL, NO_TEXT, None
    if prompt_error is not None:
        return NO_LABEL, UNREADABLE, prompt_error
    label = find_label(value, known)
    if label is None:
        return NO_LABEL, UNKNOWN, f"the label {value!r} is none of {', '.join(known)}"
    return label, NO_GOLD if label == NO_LABEL else None, None


def _draw(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()
