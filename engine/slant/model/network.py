"""A decoder-only text model over a static batch: token ids in, the last position's hidden states out.

A batch is right-padded and has no masks: whatever mixes positions only looks back, so what follows a text cannot reach
it. The blocks are the architecture's; embedding, prefix and positions are alike for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slant.model.block import Block, State
from slant.model.registry import load_block
from slant.model.weights import Weights
from slant.tensor_files import EMBEDDING
from slant_kernels.embedding import embedding


@dataclass(frozen=True)
class Prefix:
    """The state after ``length`` tokens that all texts of a batch begin with: one entry a layer."""

    length: int
    states: tuple[State, ...]


class Model:
    """All blocks of a checkpoint, in ``dtype`` (fp32 or bf16) on one device. It holds no final norm and no head."""

    def __init__(
        self,
        weights: Weights,
        max_tokens: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        host_embedding: bool = False,
    ) -> None:
        """Load one tensor at a time; ``progress(done, total)`` counts blocks.

        host_embedding: leave the embedding in page-locked host memory, out of which a GPU reads single rows.
        """
        config = weights.source.config
        self.config, self.device, self.dtype = config, weights.device, weights.dtype
        self.embedding = weights.on_host(EMBEDDING, self) if host_embedding else weights.dense(EMBEDDING)
        self.blocks: list[Block] = []
        for index in range(config.num_hidden_layers):
            self.blocks.append(load_block(weights, index))
            progress(index + 1, config.num_hidden_layers)
        self.rotary = position_tables(weights, max_tokens)

    def prefix(self, ids: Tensor) -> Prefix:
        """The state after the tokens ids ``[P]`` that every text begins with."""
        lengths = torch.tensor([len(ids)], dtype=torch.int64, device=self.device)
        x, residual, rotary = self.embed(ids[None], lengths), None, positions(self.rotary, 0, len(ids))
        states: list[State] = []
        for block in self.blocks:
            x, residual, state = block(x, residual, rotary, None, keep_state=True)
            assert state is not None
            states.append((state[0].clone(), state[1].clone()))
        return Prefix(len(ids), tuple(states))

    def __call__(self, ids: Tensor, lengths: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Hidden states before the final norm at each text's last position.

        ids int64 ``[B, T]`` right-padded with any id, lengths int64 ``[B]`` from 1 to T, both without the prefix's
        tokens; returns ``[B, hidden]`` of the model's dtype.
        """
        start = prefix.length if prefix else 0
        states = prefix.states if prefix else (None,) * len(self.blocks)
        x, residual, rotary = self.embed(ids, lengths), None, positions(self.rotary, start, ids.shape[1])
        for block, state in zip(self.blocks[:-1], states[:-1], strict=True):
            x, residual, _ = block(x, residual, rotary, state)
        x, residual = self.blocks[-1].last(x, residual, rotary, states[-1], lengths)
        return (residual + x)[:, 0]

    def embed(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What enters the first block, of the model's dtype whatever that of the table: ``[B, T, hidden]``."""
        return embedding(ids, lengths, self.embedding).to(self.dtype)


def position_tables(weights: Weights, max_tokens: int) -> State:
    """cos and sin of the positions 0 to ``max_tokens`` - 1, on the device of the weights."""
    cos, sin = weights.source.config.rotary(max_tokens)
    return cos.to(weights.device), sin.to(weights.device)


def positions(rotary: State, start: int, length: int) -> State:
    """The rows of the rotary tables for ``length`` positions from ``start``."""
    cos, sin = rotary
    return cos[start : start + length], sin[start : start + length]
