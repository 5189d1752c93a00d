"""Static batches of a call: token sequences become right-padded rectangles, without the prefix they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slant.batching.buckets import COARSE, Batch, plan
from slant.batching.costs import Costs

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class StaticBatch:
    """Texts ``rows`` of a call as ids int64 ``[B, T]``, right-padded with 0, and lengths int64 ``[B]``, on the CPU.

    The first ``start`` tokens of each text, the prompt's prefix or none, are left out. Lines after those of ``rows``
    are empty: one padding token each, computed and dropped.
    """

    rows: tuple[int, ...]
    start: int
    ids: Tensor
    lengths: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """What execution depends on: lines, padded length, tokens left out."""
        return *self.ids.shape, self.start

    def padded(self, lines: int) -> StaticBatch:
        """The same texts with empty lines up to ``lines``."""
        more = lines - len(self.ids)
        return replace(self, ids=F.pad(self.ids, (0, 0, 0, more)), lengths=F.pad(self.lengths, (0, more), value=1))

    def halves(self) -> tuple[StaticBatch, StaticBatch]:
        """The texts in two batches of the same length, without empty lines."""
        middle, end = (len(self.rows) + 1) // 2, len(self.rows)
        first, second = (
            replace(self, rows=self.rows[cut], ids=self.ids[cut], lengths=self.lengths[cut])
            for cut in (slice(0, middle), slice(middle, end))
        )
        return first, second


@dataclass(frozen=True)
class Result:
    """Answers for the texts ``rows`` of a call: float32 ``[len(rows), n]``, and the batch's computed tokens."""

    rows: tuple[int, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    computed_tokens: int


def static_batches(
    sequences: Sequence[Ids],
    prefix_ids: Ids,
    token_budget: int,
    max_tokens: int,
    costs: Costs | None = None,
    deterministic: bool = False,
    max_seconds: float | None = None,
    step: int = COARSE,
) -> Iterator[StaticBatch]:
    """All sequences in batches: first those that start with the prefix, without it, then the others in full.

    ``plan`` says what costs, deterministic, max_seconds and step do.
    """
    skip = len(prefix_ids)

    def starts(ids: Ids) -> bool:
        return 0 < skip < len(ids) and bool((ids[:skip] == prefix_ids).all())

    with_prefix = [row for row, ids in enumerate(sequences) if starts(ids)]
    others = sorted(set(range(len(sequences))) - set(with_prefix))
    for members, start in ((with_prefix, skip), (others, 0)):
        bodies = [sequences[row][start:] for row in members]
        lengths, limit = [len(body) for body in bodies], max_tokens - start
        for batch in plan(lengths, token_budget, limit, costs, max_seconds, deterministic, step):
            yield StaticBatch(tuple(members[row] for row in batch.rows), start, *pad(batch, bodies))


def pad(batch: Batch, bodies: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """ids int64 ``[padded rows, length]``, right-padded with 0, and lengths int64 ``[padded rows]``, on the CPU."""
    ids = np.zeros((batch.padded_rows, batch.length), dtype=np.int64)
    lengths = np.ones(batch.padded_rows, dtype=np.int64)
    for line, row in enumerate(batch.rows):
        lengths[line] = len(bodies[row])
        ids[line, : lengths[line]] = bodies[row]
    return torch.from_numpy(ids), torch.from_numpy(lengths)
