"""How a static batch is computed: op by op, or by replaying a CUDA graph of its shape.

On a GPU ``submit`` returns before the answers are there: ids go out from pinned memory, answers come back into pinned
memory, and only who asks a ``Pending`` for its result waits, for that batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slant.batching.batches import Result, StaticBatch
from slant.batching.buckets import bucket_lengths
from slant.model.qwen3_5 import Model, Prefix
from slant_kernels.digit_head import digit_head

Answers = tuple[Tensor, Tensor]
"""Logits and probabilities, fp32 ``[B, n]``."""


@dataclass(frozen=True)
class Head:
    """The final norm fp32 ``[D]`` and the answers' rows of the language-model head fp32 ``[n, D]``."""

    norm: Tensor
    rows: Tensor
    eps: float

    def __call__(self, hidden: Tensor) -> Answers:
        """The answers on the device, from the last hidden states ``[B, D]``."""
        return digit_head(hidden, self.norm, self.rows, self.eps)

    def answer(self, batch: StaticBatch, hidden: Tensor) -> Result:
        """The answers for a batch on the host."""
        return Pending(batch, self(hidden)).result()


class Pending:
    """A batch's answers on their way to the host."""

    def __init__(self, batch: StaticBatch, answers: Answers) -> None:
        self._batch, device = batch, answers[0].device
        self._logits, self._probabilities = map(to_host, answers)
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        if self._done is not None:
            self._done.record(torch.cuda.current_stream(device))

    def result(self) -> Result:
        """Wait for this batch, and for nothing that was submitted after it."""
        if self._done is not None:
            self._done.synchronize()
        rows = len(self._batch.rows)
        logits, probabilities = (x[:rows].numpy() for x in (self._logits, self._probabilities))
        return Result(self._batch.rows, logits, probabilities, self._batch.ids.numel())


class Eager:
    """Computes a batch of any shape, op by op."""

    def __init__(self, model: Model, head: Head, prefix: Prefix | None) -> None:
        self.model, self.head, self.prefix = model, head, prefix

    @torch.inference_mode()
    def submit(self, batch: StaticBatch) -> Pending:
        ids, lengths = (to_device(x, self.model.device) for x in (batch.ids, batch.lengths))
        return Pending(batch, self.compute(ids, lengths, batch.start))

    def compute(self, ids: Tensor, lengths: Tensor, start: int) -> Answers:
        """The answers on the device, for ids and lengths that are there."""
        return self.head(self.model(ids, lengths, self.prefix if start else None))


Compute = Callable[[], Answers]
Capture = Callable[[Compute], tuple[Callable[[], None], Answers]]
"""Records a computation: gives what replays it, and the memory in which each replay leaves its answers."""


def cuda_capture(device: torch.device) -> Capture:
    """Capture into CUDA graphs that share one memory pool: capture the largest first, and the others fit into it."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> tuple[Callable[[], None], Answers]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            answers = compute()
        return graph.replay, answers

    return capture


GRAPH_LINES = (1, 2, 4, 8)
GRAPH_TOKENS = 2048  # computed tokens above which a GPU is busy longer than the host needs for the launches


def graph_shapes(limit: int) -> list[tuple[int, int]]:
    """Shapes (lines, padded length) worth capturing, of texts of at most ``limit`` tokens after the prefix."""
    lengths = bucket_lengths(limit)
    return [(lines, length) for lines in GRAPH_LINES for length in lengths if lines * length <= GRAPH_TOKENS]


def stand_in_capture(compute: Compute) -> tuple[Callable[[], None], Answers]:
    """Where there are no CUDA graphs: replays read and write the memory that the recording saw, and compute again."""
    answers = compute()

    def replay() -> None:
        for place, value in zip(answers, compute(), strict=True):
            place.copy_(value)

    return replay, answers


def capture_on(device: torch.device) -> Capture:
    """The capture of a GPU, or the stand-in on a CPU."""
    return cuda_capture(device) if device.type == "cuda" else stand_in_capture


@dataclass(frozen=True)
class Buffers:
    """The memory of one captured shape: inputs int64 ``[B, T]`` and ``[B]``, answers as digit_head gives them."""

    ids: Tensor
    lengths: Tensor
    answers: Answers
    replay: Callable[[], None]


class Graphs:
    """Replays a batch of a captured shape and computes all others eagerly.

    A batch with fewer lines than a captured shape of its length is filled up: small batches wait for launches, not for
    arithmetic.
    """

    def __init__(self, eager: Eager, capture: Capture) -> None:
        self.eager, self._capture = eager, capture
        self._buffers: dict[tuple[int, int, int], Buffers] = {}

    @torch.inference_mode()
    def record(self, shapes: Iterable[tuple[int, int, int]]) -> None:
        """Capture graphs for shapes (lines, padded length, tokens left out)."""
        device = self.eager.model.device
        for lines, length, start in sorted(set(shapes) - self._buffers.keys(), key=lambda s: -s[0] * s[1]):
            ids = torch.zeros(lines, length, dtype=torch.int64, device=device)
            lengths = torch.ones(lines, dtype=torch.int64, device=device)

            def compute(ids: Tensor = ids, lengths: Tensor = lengths, start: int = start) -> Answers:
                return self.eager.compute(ids, lengths, start)

            compute()  # compiles kernels and creates library handles, which a capture must not
            replay, answers = self._capture(compute)
            self._buffers[lines, length, start] = Buffers(ids, lengths, answers, replay)

    @torch.inference_mode()
    def submit(self, batch: StaticBatch) -> Pending:
        lines, length, start = batch.shape
        fitting = [shape for shape in self._buffers if shape[0] >= lines and shape[1:] == (length, start)]
        if not fitting:
            return self.eager.submit(batch)
        shape = min(fitting)
        batch, buffers = batch.padded(shape[0]), self._buffers[shape]
        for source, place in ((batch.ids, buffers.ids), (batch.lengths, buffers.lengths)):
            place.copy_(pinned(source) if place.is_cuda else source, non_blocking=True)
        buffers.replay()
        return Pending(batch, buffers.answers)


def pinned(x: Tensor) -> Tensor:
    """x in page-locked memory, of torch's cache: it is not reused before the copies out of it are done."""
    return x.pin_memory()


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; the copy to a GPU is queued, not waited for."""
    return pinned(x).to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def to_host(x: Tensor) -> Tensor:
    """x on the host, once the work queued on its device is done; a copy of its own."""
    out = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
    return out.copy_(x, non_blocking=True)
