"""Batches in order of length, for systems that do not batch themselves. It runs in their interpreters: no imports."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def by_length(
    score: Callable[[list[list[int]]], list[list[float]]],
    sequences: Sequence[list[int]],
    most: int,
    *,
    padded: bool = True,
) -> list[list[float]]:
    """``score`` for up to ``most`` sequences at a time, neighbours in length; answers in the order of the sequences.

    padded=False: only sequences of one length share a call, for systems whose padded answers are wrong.
    """
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    answers: dict[int, list[float]] = {}
    while order:
        first = len(sequences[order[0]])
        rows = [row for row in order[:most] if padded or len(sequences[row]) == first]
        answers.update(zip(rows, score([sequences[row] for row in rows]), strict=True))
        del order[: len(rows)]
    return [answers[row] for row in range(len(sequences))]
