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

    @property
    def device(self) -> torch.device:
        return self.model.device

    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]:
        """Score the sequences batch by batch, in whatever order is fastest; each appears in one result."""
        with_prefix = [row for row, ids in enumerate(sequences) if self._starts_with_prefix(ids)]
        others = sorted(set(range(len(sequences))) - set(with_prefix))
        for members, prefix in ((with_prefix, self.prefix), (others, None)):
            skip = prefix.length if prefix else 0
            bodies = [sequences[row][skip:] for row in members]
            for batch in plan([len(body) for body in bodies], self.token_budget, self.max_tokens - skip):
                logits, probabilities = self._execute(batch, bodies, prefix)
                rows = tuple(members[row] for row in batch.rows)
                yield Result(rows, logits, probabilities, len(rows) * batch.length)

    def _starts_with_prefix(self, ids: Ids) -> bool:
        length = len(self.prefix_ids)
        return 0 < length < len(ids) and bool((ids[:length] == self.prefix_ids).all())

    @torch.inference_mode()
    def _execute(self, batch: Batch, bodies: Sequence[Ids], prefix: Prefix | None) -> tuple[NDArray, NDArray]:
        ids, lengths = pad(batch, bodies)
        hidden = self.model(ids.to(self.device), lengths.to(self.device), prefix)
        digits = digit_head(hidden, self.head.norm, self.head.rows, self.head.eps)
        return digits.logits.cpu().numpy(), digits.probabilities.cpu().numpy()


def pad(batch: Batch, bodies: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """ids int64 ``[B, length]``, right-padded with 0, and lengths int64 ``[B]``, on the CPU."""
    ids = np.zeros((len(batch.rows), batch.length), dtype=np.int64)
    for line, row in zip(ids, batch.rows, strict=True):
        line[: len(bodies[row])] = bodies[row]
    return torch.from_numpy(ids), torch.tensor([len(bodies[row]) for row in batch.rows])
