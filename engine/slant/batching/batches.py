"""Static batches of a call: token sequences become right-padded rectangles, without the prefix they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class StaticBatch:
    """Texts ``rows`` of a call as ids int64 ``[B, T]``, right-padded with 0, and lengths int64 ``[B]``, on the CPU.

    The first ``start`` tokens of each text, the prompt's prefix or none, are left out. Padding rows come after those
    of ``rows``: one padding token each, computed and dropped.
    """

    rows: tuple[int, ...]
    start: int
    ids: Tensor
    lengths: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """What execution depends on: computed rows, padded length, tokens left out."""
        return *self.ids.shape, self.start

    def padded(self, rows: int) -> StaticBatch:
        """The same texts with padding rows up to ``rows``."""
        more = rows - len(self.ids)
        return replace(self, ids=F.pad(self.ids, (0, 0, 0, more)), lengths=F.pad(self.lengths, (0, more), value=1))

    def halves(self) -> tuple[StaticBatch, StaticBatch]:
        """The texts in two batches of the same length, without padding rows."""
        middle, end = (len(self.rows) + 1) // 2, len(self.rows)
        first, second = (
            replace(self, rows=self.rows[cut], ids=self.ids[cut], lengths=self.lengths[cut])
            for cut in (slice(0, middle), slice(middle, end))
        )
        return first, second


def pad(bodies: Sequence[Ids], length: int, rows: int) -> tuple[Tensor, Tensor]:
    """ids int64 ``[rows, length]``, right-padded with 0, and lengths int64 ``[rows]``, on the CPU."""
    ids, lengths = np.zeros((rows, length), dtype=np.int64), np.ones(rows, dtype=np.int64)
    for row, body in enumerate(bodies):
        lengths[row] = len(body)
        ids[row, : len(body)] = body
    return torch.from_numpy(ids), torch.from_numpy(lengths)
