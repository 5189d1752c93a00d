"""The padded lengths of batches: few enough to prepare for, close enough that padding stays small."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

COARSE = 16
STEP = {"cpu": 8, "cuda": COARSE}  # a GPU captures a graph for each short length; a CPU prepares nothing


@cache
def bucket_lengths(limit: int, step: int = COARSE) -> tuple[int, ...]:
    """The padded lengths in use up to ``limit`` tokens, which is itself the last one.

    For a step of 16: multiples of 16 up to 256, of 32 up to 512, of 64 up to 1024, then steps of at most 15 %, rounded
    down to multiples of 64; for 8 half of each. A short post has about 75 tokens after the prefix: coarser steps would
    waste a third of the work on it.
    """
    lengths = [*range(step, 256, step), *range(256, 512, 2 * step), *range(512, 1024, 4 * step), 1024]
    while lengths[-1] < limit:
        lengths.append(int(lengths[-1] * (1 + 0.15 * step / COARSE)) // (4 * step) * (4 * step))
    return (*(length for length in lengths if length < limit), limit)


def bucket_length(tokens: int, limit: int, step: int = COARSE) -> int:
    """The smallest padded length that holds ``tokens``; raises ValueError outside 1 to ``limit``."""
    if not 1 <= tokens <= limit:
        raise ValueError(f"{tokens} tokens do not fit a bucket; 1 to {limit} do.")
    lengths = bucket_lengths(limit, step)
    return lengths[bisect_left(lengths, tokens)]
