"""Labelled texts to train on and to test on: any table that slant reads, with labels of any names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slant.errors import TableError
from slant.evaluation.metrics import Labels
from slant.tables.labelled import LabelledTexts, spelled


@dataclass(frozen=True)
class Labelled:
    """``texts`` and their ``labels`` int64 ``[n]``, which index ``names``.

    ``groups`` ``[n]`` are names of what belongs together, such as a text's author; None where nothing is known.
    """

    texts: tuple[str, ...]
    labels: Labels
    names: tuple[str, ...]
    groups: NDArray[np.str_] | None = None

    @property
    def ordered(self) -> bool:
        """Whether a distance between labels means something: they are numbers."""
        return all(_number(name) is not None for name in self.names)

    @property
    def digest(self) -> str:
        """The same for the same data, and for no other."""
        groups = None if self.groups is None else self.groups.tolist()
        return digest([self.texts, self.labels.tolist(), self.names, groups])

    def stratified(self, count: int, seed: int = 0) -> Labelled:
        """``count`` rows, drawn so that labels keep their shares; the rows' order stays."""
        from sklearn.model_selection import train_test_split

        if count >= len(self.texts):
            return self
        rows = np.arange(len(self.texts))
        chosen, _ = train_test_split(rows, train_size=count, stratify=self.labels, random_state=seed)
        chosen.sort()
        groups = None if self.groups is None else self.groups[chosen]
        return Labelled(tuple(self.texts[row] for row in chosen), self.labels[chosen], self.names, groups)


@dataclass(frozen=True)
class Task:
    """Training and test texts with the same ``names`` of labels, and how many rows of each file were left out."""

    name: str
    train: Labelled
    test: Labelled
    left_out: tuple[int, int]

    @classmethod
    def read(
        cls, train: Path, test: Path, *, text: str = "text", label: str = "label", group: str | None = None
    ) -> Task:
        """Two tables with columns of these names; rows without a text or a label are left out and counted.

        Raises TableError for a missing column, fewer than two labels, or a test label that training does not have.
        """
        (fit, fit_out), (judged, judged_out) = (_rows(path, text, label, group) for path in (train, test))
        found = {label for _, label, _ in fit}
        names = tuple(sorted(found, key=lambda name: (_number(name) is None, _number(name) or 0, name)))
        if len(names) < 2:
            raise TableError(f"{train}: the column {label!r} has {len(names)} labels; training needs at least two.")
        if unknown := sorted({row[1] for row in judged} - set(names)):
            raise TableError(f"{test}: {train} has no text with the label {unknown[0]!r}; its labels are {names}.")
        if not judged:
            raise TableError(f"{test}: no row has a text and a label.")
        return cls(label, _labelled(fit, names, group), _labelled(judged, names, group), (fit_out, judged_out))


def digest(value: object) -> str:
    """16 hexadecimal digits of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _rows(path: Path, text: str, label: str, group: str | None) -> tuple[list[tuple[str, str, str]], int]:
    """Rows (text, label, group or nothing) of a table, and how many had no text or no label."""
    table = LabelledTexts.read(path, text_column=text, labels_column=label, keep=[group or ""])
    labels = table.column(label, "for the labels")
    groups = table.column(group, "for the groups") if group else (None,) * len(labels)
    rows = [tuple(map(spelled, row)) for row in zip(table.texts, labels, groups, strict=True)]
    good = [row for row, error in zip(rows, table.errors, strict=True) if error is None and row[0] and row[1]]
    return good, len(rows) - len(good)


def _labelled(rows: Sequence[tuple[str, str, str]], names: Sequence[str], group: str | None) -> Labelled:
    texts, values, groups = zip(*rows, strict=True)
    labels = np.array([names.index(value) for value in values], dtype=np.int64)
    return Labelled(texts, labels, tuple(names), np.array(groups) if group else None)


def _number(name: str) -> float | None:
    return float(name) if name.removeprefix("-").isdecimal() else None
