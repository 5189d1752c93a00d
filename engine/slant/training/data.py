"""Labelled tables as clean examples, and their split into training and validation.

Dropped and counted are rows with an empty text or label, rows that repeat an earlier text and label, and all rows of a
text that comes with different labels. So no text occurs twice, and none is on both sides of the split. Unreadable rows
and unknown labels stop the run, unless they may be skipped: then they are dropped and counted as well.

A group, such as an author's texts, stays on one side of the split: a model that has read some of them knows the author
of the others, and its validation would look better than it is.
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
from slant.tables.labelled import NO_LABEL, LabelledTexts, find_label, spelled, spellings
from slant.tables.read import STANDARD

NO_TEXT, NO_GOLD = "empty text", "empty label"
UNREADABLE, UNKNOWN = "unreadable", "unknown label"
REPEATED, CONTRADICTED = "repeats an earlier row", "same text with another label"


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """A file of texts with labels, and how to read it."""

    path: str | Path
    text_column: str = "text"
    labels_column: str = "label"
    group_column: str | None = None
    input_format: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A clean row: its stripped text, its prompt's tokens int32 ``[tokens]``, its class ``label``.

    ``table`` counts the tables from 0, ``row`` the table's rows from 1. ``group`` is empty for a row without one.
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
    """The clean rows of all tables in their order, and the number dropped for each reason."""

    rows: tuple[Example, ...]
    dropped: Mapping[str, int]

    @classmethod
    def read(cls, tables: Sequence[TrainingTable], prompt: Prompt, *, skip_invalid: bool = False) -> Examples:
        """Read and clean. Raises TableError for an unreadable table, and for an invalid row unless it is skipped."""
        dropped: Counter[str] = Counter()
        found: dict[str, list[Example]] = {}
        for index, table in enumerate(tables):
            if str(table.path) == STANDARD:
                raise TableError("training reads its tables twice, so none can be stdin; give a file.")
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

        ``share`` of each label's rows, rounded, and at least one, go to validation: those whose texts hash lowest with
        the seed, so that the order of the rows does not matter. With groups, whole groups go to validation: those that
        hash lowest, until the share of all rows is reached; a row without one is its own. The labels' shares then vary.

        Raises TableError for no rows, a single label, a label with a single row, and groups that leave training
        without rows or without a label.
        """

        def draw(word: str) -> bytes:
            return hashlib.sha256(f"{seed}\n{word}".encode()).digest()

        groups = [[example for example in self.rows if example.label == label] for label in range(len(names))]
        present = [name for name, group in zip(names, groups, strict=True) if group]
        if not present:
            raise TableError(f"no row is left to train on{self._why()}.")
        if len(present) == 1:
            raise TableError(f"every row has the label {present[0]}: there is nothing to tell apart{self._why()}.")
        held: set[str] = set()  # groups, or texts that have none
        if any(example.group for example in self.rows):
            sizes = Counter(example.group or example.text for example in self.rows)
            count = 0
            for one in sorted(sizes, key=draw):
                if held and count + sizes[one] / 2 > share * len(self.rows):
                    break
                held.add(one)
                count += sizes[one]
        else:
            for name, group in zip(names, groups, strict=True):
                if len(group) == 1:
                    raise TableError(
                        f"the label {name} has 1 row, and the split needs 2: add rows, or remove this one{self._why()}."
                    )
                count = min(max(1, round(share * len(group))), len(group) - 1) if group else 0
                held |= set(sorted((example.text for example in group), key=draw)[:count])
        train, validation = (
            tuple(example for example in self.rows if ((example.group or example.text) in held) is side)
            for side in (False, True)
        )
        if missing := {example.label for example in self.rows} - {example.label for example in train}:
            listed = ", ".join(names[label] for label in sorted(missing))
            raise TableError(
                f"the groups leave no training row of {listed}: give more groups, another seed (--seed) or a smaller "
                f"share of validation (--validation){self._why()}."
            )
        return train, validation

    def _why(self) -> str:
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.dropped.items())
        return f" (rows dropped: {counts})" if counts else ""


def split_csv(parts: Sequence[Sequence[Example]], tables: Sequence[TrainingTable], answers: Sequence[str]) -> bytes:
    """The split as a CSV file: table, file, row (from 1, without the header), label and part of each example."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "file", "row", "label", "part"))
    found = [
        (example, part) for part, examples in zip(("train", "validation"), parts, strict=True) for example in examples
    ]
    for one, part in sorted(found, key=lambda pair: (pair[0].table, pair[0].row)):
        writer.writerow((one.table, Path(tables[one.table].path).name, one.row, answers[one.label], part))
    return out.getvalue().encode()


def _clean(
    table: TrainingTable, index: int, prompt: Prompt, skip_invalid: bool, dropped: Counter[str]
) -> list[Example]:
    read = LabelledTexts.read(
        table.path,
        text_column=table.text_column,
        labels_column=table.labels_column,
        input_format=table.input_format,
        encoding=table.encoding,
        delimiter=table.delimiter,
        keep=(table.group_column or "",),
    )
    groups = read.column(table.group_column, "for the groups") if table.group_column else (None,) * len(read.texts)
    assert read.values is not None
    known = spellings(tuple(prompt.labels), prompt.label_names)
    examples = []
    rows = zip(read.texts, read.errors, read.values, groups, prompt.encode(read.texts), strict=True)
    for row, (text, error, value, group, encoded) in enumerate(rows, 1):
        label, reason, problem = find_label(value, known), "", None
        if error is not None:
            reason, problem = UNREADABLE, error
        elif text is None or text != text or (isinstance(text, str) and not text.strip()):  # NaN is an empty cell
            reason = NO_TEXT
        elif encoded.error is not None:
            reason, problem = UNREADABLE, encoded.error
        elif label is None:
            reason, problem = UNKNOWN, f"the label {value!r} is none of {', '.join(known)}"
        elif label == NO_LABEL:
            reason = NO_GOLD
        if problem is not None and not skip_invalid:
            raise TableError(
                f"{table.path}, row {row}: {problem.rstrip('.')}; correct it, or drop such rows with --skip-invalid."
            )
        if reason or label is None:
            dropped[reason] += 1
        else:
            cut = encoded.tokens_dropped > 0
            examples.append(Example(str(text).strip(), encoded.ids, cut, label, index, row, spelled(group)))
    return examples
