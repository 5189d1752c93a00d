"""Runs token sequences through a model and the digit head, from the prompt's prefix where a text starts with it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from slant.batching.batches import Ids, StaticBatch
from slant.batching.plan import Planner
from slant.errors import SlantError
from slant.model.network import Model, Prefix
from slant.runtime.execution import Answers, Eager, Head

if TYPE_CHECKING:
    from slant.runtime.graphs import Capture, Graphs

AHEAD = {"cpu": 0, "cuda": 2}  # batches submitted beyond the one whose answers are given out


class Runner:
    """Executes token sequences in the batches of a planner, with all blocks on the device.

    With ``capture``, shapes named to ``record`` are replayed.
    """

    def __init__(
        self, model: Model, head: Head, prefix_ids: Sequence[int], planner: Planner, capture: Capture | None = None
    ) -> None:
        self.model, self.head, self.planner = model, head, planner
        self.prefix_ids = np.asarray(prefix_ids, dtype=np.int32)
        self.prefix: Prefix | None = None
        if len(self.prefix_ids):
            with torch.inference_mode():
                self.prefix = model.prefix(torch.tensor(self.prefix_ids, dtype=torch.int64, device=model.device))
        self._eager = Eager(model, head, self.prefix)
        self._graphs: Graphs | None = None
        if capture is not None:
            from slant.runtime.graphs import Graphs

            self._graphs = Graphs(self._eager, capture)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def record(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Capture shapes (rows, padded length) of texts that start with the prefix, if there is one."""
        if self._graphs is not None:
            self._graphs.record((rows, length, len(self.prefix_ids)) for rows, length in shapes)

    def batches(self, sequences: Sequence[Ids]) -> Iterator[StaticBatch]:
        """The static batches that ``run`` would execute."""
        return self.planner.batches(sequences, self.prefix_ids)

    def run(
        self, sequences: Sequence[Ids], *, head: Head | None = None, max_tokens: int | None = None
    ) -> Iterator[Answers]:
        """Score the sequences batch by batch, in whatever order is fastest; each is in one batch.

        head, max_tokens: in place of the runner's own, up to the model's positions. Raises SlantError if a text, or a
        batch of fixed shape, does not fit the device's memory.
        """
        planner = self.planner if max_tokens is None else replace(self.planner, max_tokens=max_tokens)
        pending: deque[Answers] = deque()
        for batch in planner.batches(sequences, self.prefix_ids):
            pending += self._submit(batch, head)
            while len(pending) > AHEAD[self.device.type]:
                yield pending.popleft()
        yield from pending

    def _submit(self, batch: StaticBatch, head: Head | None) -> list[Answers]:
        try:
            return [self._graphs.submit(batch) if self._graphs and head is None else self._eager.submit(batch, head)]
        except torch.OutOfMemoryError:
            pass  # handled outside, where the failed attempt's tensors are gone
        rows, length = batch.ids.shape
        if self.planner.deterministic and rows > 1:
            raise SlantError(
                f"a batch of {rows} x {length} tokens does not fit the memory of {self.device}, and deterministic "
                f"fixes its shape; give a token_budget of {max(length, rows * length // 2)} or less."
            )
        if len(batch.rows) == 1:
            raise SlantError(
                f"a text of {length} tokens does not fit the memory of {self.device}; "
                "give a smaller memory so that less stays resident, or a smaller max_tokens."
            )
        warnings.warn(
            f"a batch of {rows} x {length} tokens ran out of memory and is computed in two halves; "
            "give a smaller token_budget.",
            stacklevel=2,
        )
        try:
            return [self._eager.submit(half, head) for half in batch.halves()]
        except torch.OutOfMemoryError:
            raise SlantError(
                f"half a batch of {rows} x {length} tokens does not fit the memory of {self.device} either; "
                f"give a token_budget of {batch.ids.numel() // 4} or less."
            ) from None
