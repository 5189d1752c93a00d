"""Layer offloading: all texts go through one block after the other, of which the device holds one or two.

Block by block, every static batch is run and its residual stream is kept. The batches, the prefix state and the
operations are those of ``Runner`` and ``Model``, so the answers are the same bits. Blocks are read from the checkpoint
when they are due, for a reference that needs no more memory than one layer; or they come from the host's memory to a
GPU that is too small for all of them, while the one before computes.

Held at the peak: the blocks, their work on one batch, and ``hidden_size`` numbers for each computed token of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slant.batching.batches import Ids, StaticBatch
from slant.batching.plan import Planner
from slant.model.block import Block, State
from slant.model.network import position_tables, positions
from slant.model.weights import Weights
from slant.runtime.execution import Answers, Head, to_device
from slant.runtime.offloaded_blocks import BlocksInHostMemory, BlocksOnDisk, OffloadedBlocks
from slant.tensor_files import EMBEDDING
from slant_kernels.embedding import embedding


@dataclass
class _Stream:
    """A static batch on its way, with its residual stream."""

    batch: StaticBatch
    stream: Tensor


Embed = Callable[[Sequence[StaticBatch], Ids], tuple[list[Tensor], Tensor]]
"""Residual streams before the first block: of static batches, and ``[1, P, hidden]`` of a prefix of P tokens."""


class OffloadRunner:
    """Executes token sequences as ``Runner`` does, with the blocks on the outside and the batches on the inside.

    Streams wait on ``home`` between blocks. The blocks are gone through once for each ``group_tokens`` computed tokens,
    or once for all if None. ``progress`` is called with (batches through a block, that of all blocks), in each run.
    """

    def __init__(
        self,
        blocks: OffloadedBlocks,
        embed: Embed,
        head: Head,
        prefix_ids: Sequence[int],
        rotary: State,
        planner: Planner,
        *,
        device: torch.device,
        home: torch.device,
        group_tokens: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.blocks, self.embed, self.head, self.progress = blocks, embed, head, progress
        self.rotary, self.planner, self.device, self.home = rotary, planner, device, home
        self.group_tokens = group_tokens
        self.prefix_ids = np.asarray(prefix_ids, dtype=np.int32)

    @classmethod
    def from_disk(
        cls,
        weights: Weights,
        head: Head,
        prefix_ids: Sequence[int],
        planner: Planner,
        max_tokens: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> OffloadRunner:
        """Reads each block from its source when it is due; streams wait on the CPU."""
        tables, cpu = position_tables(weights, max_tokens), torch.device("cpu")
        moving = BlocksOnDisk(weights), embed_from(weights)
        return cls(*moving, head, prefix_ids, tables, planner, device=weights.device, home=cpu, progress=progress)

    @classmethod
    def from_host_memory(
        cls,
        weights: Weights,
        device: torch.device,
        head: Head,
        prefix_ids: Sequence[int],
        planner: Planner,
        max_tokens: int,
        loading: Callable[[int, int], None] = lambda done, total: None,
    ) -> OffloadRunner:
        """Keeps all weights on the host, as ``weights`` reads them, and brings two blocks at a time to ``device``.

        The embedding stays on the host; streams wait on the device, so the token budget bounds a group of batches.
        """
        blocks = BlocksInHostMemory(weights, device, loading)
        embed = embed_with(Weights(weights.source, weights.dtype, device).on_host(EMBEDDING, blocks), device)
        cos, sin = position_tables(weights, max_tokens)
        tables, group = (cos.to(device), sin.to(device)), planner.token_budget
        return cls(blocks, embed, head, prefix_ids, tables, planner, device=device, home=device, group_tokens=group)

    @torch.inference_mode()
    def run(
        self, sequences: Sequence[Ids], *, head: Head | None = None, max_tokens: int | None = None
    ) -> Iterator[Answers]:
        """Score the sequences; each is in one batch. head, max_tokens: as for ``Runner.run``."""
        planner = self.planner if max_tokens is None else replace(self.planner, max_tokens=max_tokens)
        batches, answering = list(planner.batches(sequences, self.prefix_ids)), head or self.head
        done, total = 0, len(batches) * len(self.blocks)
        for group in groups(batches, self.group_tokens):
            streams, prefix = self.embed(group, self.prefix_ids)
            parts = [_Stream(*pair) for pair in zip(group, streams, strict=True)]
            del streams
            for index in range(len(self.blocks)):
                for _ in self._advance(index, parts, prefix):
                    self.progress(done := done + 1, total)
            yield from [Answers(part.batch, answering(part.stream[:, 0].to(self.device))) for part in parts]

    def _advance(self, index: int, parts: Sequence[_Stream], prefix: Tensor) -> Iterator[None]:
        """Take all streams through one block, in place; the block is gone at the end, before the next is read."""
        with self.blocks.use(index) as block:
            batches = ((part.batch, part.stream) for part in parts)  # lazily: a list would hold all old streams
            last = index + 1 == len(self.blocks)
            after = advance(block, self.device, self.rotary, prefix, batches, last=last)
            prefix.copy_(next(after))
            for part, stream in zip(parts, after, strict=True):
                part.stream = stream.to(self.home)
                yield


def groups(batches: Sequence[StaticBatch], tokens: int | None) -> Iterator[list[StaticBatch]]:
    """The batches in their order, in groups of at most ``tokens`` computed tokens or one batch; one group if None."""
    group: list[StaticBatch] = []
    held = 0
    for batch in batches:
        if group and tokens is not None and held + batch.ids.numel() > tokens:
            yield group
            group, held = [], 0
        group.append(batch)
        held += batch.ids.numel()
    if group:
        yield group


def embed_from(weights: Weights) -> Embed:
    """Reads from the source the embedding's rows of the tokens that occur, and no others."""

    def embed(batches: Sequence[StaticBatch], prefix_ids: Ids) -> tuple[list[Tensor], Tensor]:
        prefix = torch.from_numpy(prefix_ids).long()
        known = torch.cat([prefix, *(batch.ids.flatten() for batch in batches)]).unique()
        table = weights.source.rows(EMBEDDING, known.tolist()).to(weights.storage).to(weights.dtype)
        streams = [embedding(torch.searchsorted(known, batch.ids), batch.lengths, table) for batch in batches]
        return streams, table[torch.searchsorted(known, prefix)][None]

    return embed


def embed_with(table: Tensor, device: torch.device) -> Embed:
    """Gathers rows of an embedding on the device or in pinned host memory."""

    def embed(batches: Sequence[StaticBatch], prefix_ids: Ids) -> tuple[list[Tensor], Tensor]:
        streams = [embedding(to_device(b.ids, device), to_device(b.lengths, device), table) for b in batches]
        prefix = to_device(torch.from_numpy(prefix_ids).long()[None], device)
        return streams, embedding(prefix, torch.full((1,), prefix.shape[1], dtype=torch.int64, device=device), table)

    return embed


def advance(
    block: Block,
    device: torch.device,
    rotary: State,
    prefix: Tensor,
    batches: Iterable[tuple[StaticBatch, Tensor]],
    *,
    last: bool,
) -> Iterator[Tensor]:
    """Residual streams after a block on ``device``: first that of the prompt's prefix, then one a batch.

    prefix ``[1, P, hidden]`` and the batches' streams ``[B, T, hidden]`` are those before the block, on any device.
    After the ``last`` block a stream is ``[B, 1, hidden]``. A block's output and its residual stream are added here, as
    the next block's norm would: half the memory.
    """
    state: State | None = None
    if prefix.shape[1]:
        x, residual, state = block(prefix.to(device), None, positions(rotary, 0, prefix.shape[1]), None, True)
        prefix = residual + x
    yield prefix
    for batch, stream in batches:
        where = positions(rotary, batch.start, stream.shape[1])
        arguments = stream.to(device), None, where, state if batch.start else None
        x, residual = block.last(*arguments, to_device(batch.lengths, device)) if last else block(*arguments)[:2]
        yield residual + x
