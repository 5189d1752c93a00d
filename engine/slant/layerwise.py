"""The reference without its memory: all texts go through a model of which one layer at a time is loaded.

Block by block, every static batch is run and its hidden states are kept on the CPU; then the block is dropped. The
batches, the prefix state and the operations are those of ``Runner`` and ``Model``, so the answers are the same bits,
with weights of one layer in memory instead of all. Of the embedding only the rows of the texts' tokens are read.

Held at the peak: one block, its work on one batch, and ``hidden_size`` numbers for each computed token of all texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slant.batches import Ids, Result, StaticBatch, static_batches
from slant.checkpoint import EMBEDDING
from slant.classifier import Classifier
from slant.engine import Engine
from slant.execution import Head
from slant.model import Block, State, Weights, positions
from slant_kernels.embedding import embedding
from slant_kernels.rotary import rotary_tables


def load(
    model: str | Path,
    *,
    weights: str = "bf16",
    device: str = "auto",
    template: str | None = None,
    labels: Mapping[str, str] | None = None,
    max_tokens: int = 8192,
    truncation: str = "head",
    token_budget: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Engine:
    """An Engine whose every call reads the checkpoint once, layer by layer: give it all texts at once.

    The arguments are those of ``Engine.load``, and with the same ones the scores are bit-identical to its scores.
    progress: called with (batches through a block, that of all blocks), in each call.

    Raises SlantError as ``Engine.load`` does.
    """
    classifier = Classifier.open(
        model,
        weights=weights,
        device=device,
        template=template,
        labels=labels,
        max_tokens=max_tokens,
        truncation=truncation,
        token_budget=token_budget,
    )
    runner = LayerwiseRunner(
        Weights(classifier.source, classifier.dtype, classifier.device),
        classifier.head,
        classifier.prompt.prefix_ids,
        max_tokens=max_tokens,
        token_budget=classifier.token_budget,
        progress=progress,
    )
    return Engine(classifier.prompt, runner)


@dataclass
class _Part:
    """A static batch on its way, with its hidden states (on the CPU)."""

    batch: StaticBatch
    hidden: Tensor


class LayerwiseRunner:
    """Executes token sequences as ``Runner`` does, with the blocks on the outside and the batches on the inside."""

    def __init__(
        self,
        weights: Weights,
        head: Head,
        prefix_ids: Sequence[int],
        *,
        max_tokens: int,
        token_budget: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.weights, self.head, self.progress = weights, head, progress
        self.config = weights.checkpoint.config
        self.max_tokens, self.token_budget = max_tokens, token_budget
        self.prefix_ids = np.asarray(prefix_ids, dtype=np.int32)
        cos, sin = rotary_tables(max_tokens, self.config.rotary_dim, self.config.rope_theta)
        self.rotary = cos.to(self.device), sin.to(self.device)

    @property
    def device(self) -> torch.device:
        return self.weights.device

    @torch.inference_mode()
    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]:
        """Score the sequences; each appears in one result."""
        if not sequences:
            return
        parts, prefix = self._embed(sequences)
        for index in range(self.config.num_hidden_layers):
            self._advance(index, parts, prefix)
        for part in parts:
            yield self.head.answer(part.batch, part.hidden[:, 0].to(self.device))

    def _embed(self, sequences: Sequence[Ids]) -> tuple[list[_Part], Tensor]:
        """The static batches of ``Runner``, and the prefix ``[1, P, hidden]``, as embeddings."""
        known = torch.from_numpy(np.unique(np.concatenate([self.prefix_ids, *sequences]))).long()
        table = self.weights.checkpoint.rows(EMBEDDING, known.tolist()).to(self.weights.dtype)
        parts = [
            _Part(batch, embedding(torch.searchsorted(known, batch.ids), batch.lengths, table))  # 0 pads to row 0
            for batch in static_batches(sequences, self.prefix_ids, self.token_budget, self.max_tokens)
        ]
        return parts, table[torch.searchsorted(known, torch.from_numpy(self.prefix_ids).long())][None]

    def _advance(self, index: int, parts: Sequence[_Part], prefix: Tensor) -> None:
        """Take all hidden states through one block, in place. The block is gone on return, before the next is read."""
        block, layers = Block(self.config, self.weights, index), self.config.num_hidden_layers
        batches = [(part.batch, part.hidden) for part in parts]
        after = advance(block, self.device, self.rotary, prefix, batches, last=index + 1 == layers)
        prefix.copy_(next(after))
        for done, (part, hidden) in enumerate(zip(parts, after, strict=True), 1):
            part.hidden = hidden.cpu()
            self.progress(index * len(parts) + done, layers * len(parts))


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
        x, residual = block.last(*arguments, batch.lengths.to(device)) if last else block(*arguments)[:2]
        yield residual + x
