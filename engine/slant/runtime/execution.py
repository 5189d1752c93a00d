"""How a static batch is computed op by op, and how its answers come to the host.

On a GPU ``submit`` returns before the answers are there: ids go out from pinned memory, answers come back into pinned
memory, and only who reads them waits, for that batch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slant.batching.batches import Ids, StaticBatch
from slant.model.network import Model, Prefix
from slant_kernels.digit_head import digit_head

HeadOutput = tuple[Tensor, Tensor]
"""Logits and probabilities on the device, fp32 ``[B, n]``."""


@dataclass(frozen=True)
class Head:
    """The final norm fp32 ``[D]`` and the answers' rows of the language-model head fp32 ``[n, D]``."""

    norm: Tensor
    rows: Tensor
    eps: float

    def __call__(self, hidden: Tensor) -> HeadOutput:
        """The answers on the device, from the last hidden states ``[B, D]``."""
        return digit_head(hidden, self.norm, self.rows, self.eps)


class Answers:
    """A batch's answers, on their way to the host, for its texts ``rows``.

    Reading ``logits`` or ``probabilities``, float32 ``[len(rows), n]``, waits for this batch and for nothing that was
    submitted after it.
    """

    def __init__(self, batch: StaticBatch, answers: HeadOutput) -> None:
        self.rows, self.computed_tokens = batch.rows, batch.ids.numel()
        # Views of the memory on the host, taken here: the caller's own modes of torch do not reach them.
        self._logits, self._probabilities = (to_host(x).numpy() for x in answers)
        self._done = torch.cuda.Event() if answers[0].is_cuda else None
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(answers[0].device))

    @property
    def logits(self) -> NDArray[np.float32]:
        return self._read(self._logits)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        return self._read(self._probabilities)

    def _read(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._done is not None:
            self._done.synchronize()
        return x[: len(self.rows)]


class Executor(Protocol):
    """What answers for token sequences: a ``Runner``, or an ``OffloadRunner``."""

    @property
    def device(self) -> torch.device: ...
    def run(
        self, sequences: Sequence[Ids], *, head: Head | None = None, max_tokens: int | None = None
    ) -> Iterator[Answers]: ...


class Eager:
    """Computes a batch of any shape, op by op."""

    def __init__(self, model: Model, head: Head, prefix: Prefix | None) -> None:
        self.model, self.head, self.prefix = model, head, prefix

    @torch.inference_mode()
    def submit(self, batch: StaticBatch, head: Head | None = None) -> Answers:
        """``head`` answers in place of the usual one."""
        ids, lengths = (to_device(x, self.model.device) for x in (batch.ids, batch.lengths))
        return Answers(batch, (head or self.head)(self.hidden(ids, lengths, batch.start)))

    def compute(self, ids: Tensor, lengths: Tensor, start: int) -> HeadOutput:
        """The answers on the device, for ids and lengths that are there."""
        return self.head(self.hidden(ids, lengths, start))

    def hidden(self, ids: Tensor, lengths: Tensor, start: int) -> Tensor:
        return self.model(ids, lengths, self.prefix if start else None)


def pinned(x: Tensor) -> Tensor:
    """x in page-locked memory, of torch's cache: it is not reused before the copies out of it are done."""
    return x.pin_memory()


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; the copy to a GPU is queued, not waited for."""
    return pinned(x).to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to_host(x: Tensor) -> Tensor:
    """x on the host, once the work queued on its device is done; a copy of its own."""
    out = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.is_cuda)
    return out.copy_(x, non_blocking=True)
