"""Runs token sequences through a model and the digit head, from the prompt's prefix where a text starts with it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from slant.batching.batches import Ids, Result, StaticBatch, static_batches
from slant.batching.buckets import STEP
from slant.batching.costs import Costs
from slant.errors import SlantError
from slant.model.qwen3_5 import Model, Prefix
from slant.runtime.execution import Capture, Eager, Graphs, Head, Pending

AHEAD = {"cpu": 0, "cuda": 2}  # batches submitted beyond the one whose answers are given out


class Runner:
    """Executes token sequences of 1 to ``max_tokens`` tokens in batches of at most ``token_budget`` computed tokens.

    costs: what the batches are planned by; by their tokens if None. deterministic: a text's batch shape depends on its
    own length only, at the price of empty lines. max_seconds: what a batch of several texts may take by its costs.
    With ``capture``, shapes named to ``record`` are replayed.
    """

    def __init__(
        self,
        model: Model,
        head: Head,
        prefix_ids: Sequence[int],
        *,
        max_tokens: int,
        token_budget: int,
        costs: Costs | None = None,
        deterministic: bool = False,
        max_seconds: float | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.model, self.head = model, head
        self.max_tokens, self.token_budget = max_tokens, token_budget
        self.costs, self.deterministic, self.max_seconds = costs, deterministic, max_seconds
        self.prefix_ids = np.asarray(prefix_ids, dtype=np.int32)
        self.prefix: Prefix | None = None
        if len(self.prefix_ids):
            with torch.inference_mode():
                self.prefix = model.prefix(torch.tensor(self.prefix_ids, dtype=torch.int64, device=model.device))
        self._eager = Eager(model, head, self.prefix)
        self._graphs = Graphs(self._eager, capture) if capture else None

    @property
    def device(self) -> torch.device:
        return self.model.device

    def record(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Capture shapes (lines, padded length) of texts that start with the prefix, if there is one."""
        if self._graphs is not None:
            self._graphs.record((lines, length, len(self.prefix_ids)) for lines, length in shapes)

    def batches(self, sequences: Sequence[Ids]) -> Iterator[StaticBatch]:
        """The static batches that ``run`` would execute."""
        limits, step = (self.token_budget, self.max_tokens), STEP[self.device.type]
        return static_batches(
            sequences, self.prefix_ids, *limits, self.costs, self.deterministic, self.max_seconds, step
        )

    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]:
        """Score the sequences batch by batch, in whatever order is fastest; each appears in one result.

        Raises SlantError if one text alone does not fit the device's memory.
        """
        pending: deque[Pending] = deque()
        for batch in self.batches(sequences):
            pending += self._submit(batch)
            while len(pending) > AHEAD[self.device.type]:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _submit(self, batch: StaticBatch) -> list[Pending]:
        execution = self._graphs or self._eager
        try:
            return [execution.submit(batch)]
        except torch.OutOfMemoryError:
            pass  # handled outside, where the failed attempt's tensors are gone
        if len(batch.rows) == 1:
            raise SlantError(
                f"a text of {batch.ids.shape[1]} tokens does not fit the memory of {self.device}; "
                "give a smaller memory= so that less stays resident, or a smaller max_tokens."
            )
        warnings.warn(
            f"a batch of {batch.ids.shape[0]} x {batch.ids.shape[1]} tokens ran out of memory and is computed in two "
            "halves; give a smaller token_budget.",
            stacklevel=2,
        )
        try:
            return [self._eager.submit(half) for half in batch.halves()]
        except torch.OutOfMemoryError:
            raise SlantError(
                f"half a batch of {batch.ids.shape[0]} x {batch.ids.shape[1]} tokens does not fit the memory of "
                f"{self.device} either; give a token_budget of {batch.ids.numel() // 4} or less."
            ) from None
