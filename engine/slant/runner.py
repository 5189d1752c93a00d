"""Runs static batches through a model and the digit head, from the prompt's prefix where a text starts with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.buckets import Batch, plan
from slant.model import Model, Prefix
from slant_kernels.digit_head import digit_head

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Head:
    """The final norm fp32 ``[D]`` and the answers' rows of the language-model head fp32 ``[n, D]``."""

    norm: Tensor
    rows: Tensor
    eps: float

    def answer(self, batch: StaticBatch, hidden: Tensor) -> Result:
        """The answers for a batch from its last hidden states ``[B, D]``."""
        digits = digit_head(hidden, self.norm, self.rows, self.eps)
        return Result(batch.rows, digits.logits.cpu().numpy(), digits.probabilities.cpu().numpy(), batch.ids.numel())


@dataclass(frozen=True)
class StaticBatch:
    """Texts ``rows`` of a call as ids int64 ``[B, T]``, right-padded with 0, and lengths int64 ``[B]``, on the CPU.

    The first ``start`` tokens of each text, the prompt's prefix or none, are left out.
    """

    rows: tuple[int, ...]
    start: int
    ids: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Result:
    """Answers for the texts ``rows`` of a call: float32 ``[len(rows), n]``, and the batch's computed tokens."""

    rows: tuple[int, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    computed_tokens: int


class Runner:
    """Executes token sequences of 1 to ``max_tokens`` tokens in batches of at most ``token_budget`` computed tokens."""

    def __init__(
        self, model: Model, head: Head, prefix_ids: Sequence[int], *, max_tokens: int, token_budget: int
    ) -> None:
        self.model, self.head = model, head
        self.max_tokens, self.token_budget = max_tokens, token_budget
        self.prefix_ids = np.asarray(prefix_ids, dtype=np.int32)
        self.prefix: Prefix | None = None
        if len(self.prefix_ids):
            with torch.inference_mode():
                self.prefix = model.prefix(torch.tensor(self.prefix_ids, dtype=torch.int64, device=model.device))

    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]:
        """Score the sequences batch by batch, in whatever order is fastest; each appears in one result."""
        for batch in static_batches(sequences, self.prefix_ids, self.token_budget, self.max_tokens):
            yield self._execute(batch)

    @torch.inference_mode()
    def _execute(self, batch: StaticBatch) -> Result:
        device = self.model.device
        prefix = self.prefix if batch.start else None
        return self.head.answer(batch, self.model(batch.ids.to(device), batch.lengths.to(device), prefix))


def static_batches(
    sequences: Sequence[Ids], prefix_ids: Ids, token_budget: int, max_tokens: int
) -> Iterator[StaticBatch]:
    """All sequences in batches: first those that start with the prefix, without it, then the others in full."""
    skip = len(prefix_ids)

    def starts(ids: Ids) -> bool:
        return 0 < skip < len(ids) and bool((ids[:skip] == prefix_ids).all())

    with_prefix = [row for row, ids in enumerate(sequences) if starts(ids)]
    others = sorted(set(range(len(sequences))) - set(with_prefix))
    for members, start in ((with_prefix, skip), (others, 0)):
        bodies = [sequences[row][start:] for row in members]
        for batch in plan([len(body) for body in bodies], token_budget, max_tokens - start):
            yield StaticBatch(tuple(members[row] for row in batch.rows), start, *pad(batch, bodies))


def pad(batch: Batch, bodies: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """ids int64 ``[B, length]``, right-padded with 0, and lengths int64 ``[B]``, on the CPU."""
    ids = np.zeros((len(batch.rows), batch.length), dtype=np.int64)
    for line, row in zip(ids, batch.rows, strict=True):
        line[: len(bodies[row])] = bodies[row]
    return torch.from_numpy(ids), torch.tensor([len(bodies[row]) for row in batch.rows])
