"""Lengths -> batches: texts of similar length share a right-padded rectangle of a known shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from slant.batching.batches import Ids, StaticBatch, pad
from slant.batching.buckets import COARSE, bucket_length
from slant.batching.costs import TOKENS, BatchCosts

# More rows are never tried, which bounds the time to plan. At 16 tokens a row they are 16,384 tokens: larger batches of
# such short texts have next to no overhead left to save.
MOST_ROWS = 1024
# Relative: totals that differ by less are equal but for the order of their sums.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Slots:
    """Texts ``rows`` (indices into the planned sequence) of one batch, padded to ``length`` tokens each.

    ``padded_rows`` rows are computed: those of the texts, and padding rows where there are more.
    """

    rows: tuple[int, ...]
    length: int
    padded_rows: int


@dataclass(frozen=True)
class Planner:
    """Plans batches of at most ``token_budget`` computed tokens for texts of at most ``max_tokens`` tokens.

    costs: what is compared; the computed tokens by default. deterministic: a text's batch shape depends on its own
    length only, at the cost of padding rows. step: the finest step of padded lengths, see ``bucket_lengths``.
    """

    token_budget: int
    max_tokens: int
    costs: BatchCosts = field(default=TOKENS)
    deterministic: bool = False
    step: int = COARSE

    def batches(self, sequences: Sequence[Ids], prefix_ids: Ids) -> Iterator[StaticBatch]:
        """All sequences in batches: first those that start with the prefix, without it, then the others in full."""
        skip = len(prefix_ids)

        def starts(ids: Ids) -> bool:
            return 0 < skip < len(ids) and bool((ids[:skip] == prefix_ids).all())

        with_prefix = [row for row, ids in enumerate(sequences) if starts(ids)]
        others = sorted(set(range(len(sequences))) - set(with_prefix))
        for members, start in ((with_prefix, skip), (others, 0)):
            bodies = [sequences[row][start:] for row in members]
            for slots in self.plan([len(body) for body in bodies], self.max_tokens - start):
                rows = tuple(members[row] for row in slots.rows)
                padded = pad([bodies[row] for row in slots.rows], slots.length, slots.padded_rows)
                yield StaticBatch(rows, start, *padded)

    def plan(self, lengths: Sequence[int], limit: int) -> list[Slots]:
        """The batches of least total costs that hold every text exactly once, longest first.

        A batch has one row, or at most ``token_budget`` computed tokens (rows times padded length). With
        ``deterministic`` every text is padded to its own coarse bucket, each bucket has a fixed number of rows, and a
        batch is filled up with padding rows. Longest first: whatever memory the call needs, it needs at the start, and
        the last batches to finish are short.

        Batches are runs of the texts in order of length. No other partition is better: let the longest texts of two
        batches fill the longer one, and the sizes stay while no length grows, so neither batch costs more. The best
        runs are found from the short end: the k shortest texts take the least, over all r, that one batch of the r
        longest of them and the best batches of the other k - r take together.
        """
        count = len(lengths)
        order = sorted(range(count), key=lambda row: (-lengths[row], row))
        padded = [bucket_length(lengths[row], limit, COARSE if self.deterministic else self.step) for row in order]
        most = {length: max(1, min(self.token_budget // length, MOST_ROWS)) for length in sorted(set(padded))}
        costs = TOKENS if self.deterministic else self.costs
        # From the most rows to one: of equal totals the first is taken, and batches are filled before others start.
        seconds = {length: costs.seconds(np.arange(min(rows, count), 0, -1), length) for length, rows in most.items()}

        least, taken = np.zeros(count + 1), [0] * (count + 1)
        for k in range(1, count + 1):
            batch = seconds[padded[count - k]][-k:]
            total = least[k - len(batch) : k] + batch
            best = int(np.argmax(total <= total.min() * (1 + ROUNDING)))
            least[k], taken[k] = total[best], len(batch) - best

        batches, start = [], 0
        while start < count:
            rows, length = order[start : start + taken[count - start]], padded[start]
            batches.append(Slots(tuple(rows), length, most[length] if self.deterministic else len(rows)))
            start += len(rows)
        return batches
