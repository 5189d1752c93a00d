"""Lengths -> static batches: texts of similar length share a right-padded rectangle of a known shape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from slant.batching.costs import Costs, Formula

TOKENS = Formula(overhead=0.0, token=1.0)
COARSE = 16
STEP = {"cpu": 8, "cuda": COARSE}  # a GPU captures a graph for each short length; a CPU prepares nothing
# More rows are never tried, which bounds the time to plan. At 16 tokens a row they are 16,384 tokens: larger batches of
# such short texts have next to no overhead left to save.
MOST_ROWS = 1024
# Relative: totals that differ by less are equal but for the order of their sums.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts ``rows`` (indices into the planned sequence), padded to ``length`` tokens each.

    ``padded_rows`` rows are computed: those of the texts, and empty ones where there are more.
    """

    rows: tuple[int, ...]
    length: int
    padded_rows: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "padded_rows", max(self.padded_rows, len(self.rows)))


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


def plan(
    lengths: Sequence[int],
    token_budget: int,
    limit: int,
    costs: Costs | None = None,
    max_seconds: float | None = None,
    deterministic: bool = False,
    step: int = COARSE,
) -> list[Batch]:
    """The batches of least total ``costs`` that hold every text exactly once, longest first.

    A batch has one row, or at most ``token_budget`` computed tokens (rows times padded length) and a predicted time of
    at most ``max_seconds``. Without costs every text is padded to its own bucket, in the fewest batches. So it is with
    ``deterministic``, and there a text's shape depends on its own length only: each bucket has a fixed number of rows,
    a batch is filled up with empty ones, and buckets are coarse, so that few are. step: see ``bucket_lengths``. Longest
    first: whatever memory the call needs, it needs at the start, and
    the last batches to finish are short.

    Batches are runs of the texts in order of length. No other partition is better: let the longest texts of two batches
    fill the longer one, and the sizes stay while no length grows, so neither batch costs more. The best runs are found
    from the short end: the k shortest texts take the least, over all r, that one batch of the r longest of them and the
    best batches of the other k - r take together.
    """
    if max_seconds is not None and costs is None:
        raise ValueError("max_seconds needs costs to predict a batch's seconds.")
    count = len(lengths)
    order = sorted(range(count), key=lambda row: (-lengths[row], row))
    padded = [bucket_length(lengths[row], limit, COARSE if deterministic else step) for row in order]
    most = {length: _most_rows(length, token_budget, costs, max_seconds) for length in sorted(set(padded))}
    compared = TOKENS if deterministic or costs is None else costs
    # From the most rows to one: of equal totals the first is taken, and batches are filled before others start.
    seconds = {length: compared.seconds(np.arange(min(rows, count), 0, -1), length) for length, rows in most.items()}

    least, taken = np.zeros(count + 1), [0] * (count + 1)
    for k in range(1, count + 1):
        batch = seconds[padded[count - k]][-k:]
        total = least[k - len(batch) : k] + batch
        best = int(np.argmax(total <= total.min() * (1 + ROUNDING)))
        least[k], taken[k] = total[best], len(batch) - best

    batches, start = [], 0
    while start < count:
        end, length = start + taken[count - start], padded[start]
        batches.append(Batch(tuple(order[start:end]), length, most[length] if deterministic else 0))
        start = end
    return batches


def _most_rows(length: int, token_budget: int, costs: Costs | None, max_seconds: float | None) -> int:
    rows = max(1, min(token_budget // length, MOST_ROWS))
    if costs is not None and max_seconds is not None:
        seconds = costs.seconds(np.arange(1, rows + 1), length)
        rows = max(1, int(np.searchsorted(seconds, max_seconds, side="right")))
    return rows


def fill(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """Real over computed tokens of the planned ``lengths``; 1 of nothing."""
    computed = sum(batch.padded_rows * batch.length for batch in batches)
    return sum(lengths) / computed if computed else 1.0
