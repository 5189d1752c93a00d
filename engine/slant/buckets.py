"""Lengths -> static batches: texts of similar length share a right-padded rectangle of a known shape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts ``rows`` (indices into the planned sequence), padded to ``length`` tokens each."""

    rows: tuple[int, ...]
    length: int


@cache
def bucket_lengths(limit: int) -> tuple[int, ...]:
    """The padded lengths in use up to ``limit`` tokens, which is itself the last one.

    Multiples of 16 up to 256, of 32 up to 512, of 64 up to 1024, then steps of at most 15 %, rounded down to multiples
    of 64. A short post has about 75 tokens after the prefix: coarser steps would waste a third of the work on it.
    """
    lengths = [*range(16, 256, 16), *range(256, 512, 32), *range(512, 1024, 64), 1024]
    while lengths[-1] < limit:
        lengths.append(int(lengths[-1] * 1.15) // 64 * 64)
    return (*(length for length in lengths if length < limit), limit)


def bucket_length(tokens: int, limit: int) -> int:
    """The smallest padded length that holds ``tokens``; raises ValueError outside 1 to ``limit``."""
    if not 1 <= tokens <= limit:
        raise ValueError(f"{tokens} tokens do not fit a bucket; 1 to {limit} do.")
    lengths = bucket_lengths(limit)
    return lengths[bisect_left(lengths, tokens)]


def plan(lengths: Sequence[int], token_budget: int, limit: int) -> list[Batch]:
    """Batches that hold every text exactly once, longest first.

    A batch has at most ``token_budget`` computed tokens (rows times padded length), or one row. Longest first: whatever
    memory the call needs, it needs at the start, and the last batches to finish are short.
    """
    batches: list[Batch] = []
    rows: list[int] = []
    length = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        padded = bucket_length(lengths[row], limit)
        if rows and (padded != length or (len(rows) + 1) * length > token_budget):
            batches.append(Batch(tuple(rows), length))
            rows = []
        rows.append(row)
        length = padded
    if rows:
        batches.append(Batch(tuple(rows), length))
    return batches
