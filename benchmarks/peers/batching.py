"""Batches in order of length, with and without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

Score = Callable[[list[list[int]]], list[list[float]]]


def by_length(score: Score, sequences: Sequence[list[int]], most: int) -> list[list[float]]:
    """``score`` for ``most`` sequences at a time, neighbours in length; answers in the order of the sequences."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    return _answers(score, sequences, [order[start : start + most] for start in range(0, len(order), most)])


def unpadded(score: Score, sequences: Sequence[list[int]], most: int) -> list[list[float]]:
    """As ``by_length``, but only sequences of one length share a call: for peers whose padded answers are wrong."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    equal = [list(rows) for _, rows in groupby(order, key=lambda row: len(sequences[row]))]
    batches = [rows[start : start + most] for rows in equal for start in range(0, len(rows), most)]
    return _answers(score, sequences, batches)


def _answers(score: Score, sequences: Sequence[list[int]], batches: Sequence[list[int]]) -> list[list[float]]:
    answers: dict[int, list[float]] = {}
    for rows in batches:
        answers.update(zip(rows, score([sequences[row] for row in rows]), strict=True))
    return [answers[row] for row in range(len(sequences))]
