"""CUDA graphs of small batches: a batch of a captured shape is replayed instead of launched op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from slant.batching.batches import StaticBatch
from slant.batching.buckets import bucket_lengths
from slant.runtime.execution import Answers, Eager, HeadOutput, pinned

Compute = Callable[[], HeadOutput]
Capture = Callable[[Compute], tuple[Callable[[], None], HeadOutput]]
"""Records a computation: gives what replays it, and the memory in which each replay leaves its answers."""


def cuda_capture(device: torch.device) -> Capture:
    """Capture into CUDA graphs that share one memory pool: capture the largest first, and the others fit into it."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> tuple[Callable[[], None], HeadOutput]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            answers = compute()
        return graph.replay, answers

    return capture


GRAPH_ROWS = (1, 2, 4, 8)
GRAPH_TOKENS = 2048  # computed tokens above which a GPU is busy longer than the host needs for the launches


def graph_shapes(limit: int) -> list[tuple[int, int]]:
    """Shapes (rows, padded length) worth capturing, of texts of at most ``limit`` tokens after the prefix."""
    lengths = bucket_lengths(limit)
    return [(rows, length) for rows in GRAPH_ROWS for length in lengths if rows * length <= GRAPH_TOKENS]


@dataclass(frozen=True)
class Buffers:
    """The memory of one captured shape: inputs int64 ``[B, T]`` and ``[B]``, answers as digit_head gives them."""

    ids: Tensor
    lengths: Tensor
    answers: HeadOutput
    replay: Callable[[], None]


class Graphs:
    """Replays a batch of a captured shape and computes all others eagerly.

    A batch with fewer rows than a captured shape of its length gets padding rows: small batches wait for
    launches, not for arithmetic.
    """

    def __init__(self, eager: Eager, capture: Capture) -> None:
        self.eager, self._capture = eager, capture
        self._buffers: dict[tuple[int, int, int], Buffers] = {}

    @torch.inference_mode()
    def record(self, shapes: Iterable[tuple[int, int, int]]) -> None:
        """Capture graphs for shapes (rows, padded length, tokens left out)."""
        device = self.eager.model.device
        for rows, length, start in sorted(set(shapes) - self._buffers.keys(), key=lambda s: -s[0] * s[1]):
            ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
            lengths = torch.ones(rows, dtype=torch.int64, device=device)

            def compute(ids: Tensor = ids, lengths: Tensor = lengths, start: int = start) -> HeadOutput:
                return self.eager.compute(ids, lengths, start)

            compute()  # compiles kernels and creates library handles, which a capture must not
            replay, answers = self._capture(compute)
            self._buffers[rows, length, start] = Buffers(ids, lengths, answers, replay)

    @torch.inference_mode()
    def submit(self, batch: StaticBatch) -> Answers:
        rows, length, start = batch.shape
        fitting = [shape for shape in self._buffers if shape[0] >= rows and shape[1:] == (length, start)]
        if not fitting:
            return self.eager.submit(batch)
        shape = min(fitting)
        batch, buffers = batch.padded(shape[0]), self._buffers[shape]
        for source, place in ((batch.ids, buffers.ids), (batch.lengths, buffers.lengths)):
            place.copy_(pinned(source) if place.is_cuda else source, non_blocking=True)
        buffers.replay()
        return Answers(batch, buffers.answers)
