"""What the engine knows of a block: how it is called, what it carries from a prefix, which matrices it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from slant_kernels.linear import Weight

State = tuple[Tensor, Tensor]
"""What a mixer carries from a prefix to the texts after it: keys and values ``[1, G, P, D]`` of an attention, or the
last convolution inputs ``[1, W - 1, C]`` and the recurrent state fp32 ``[1, Hv, K, V]`` of a DeltaNet."""


class Part:
    """A block or a part of one: its attributes hold tensors, matrices, numbers, or further parts."""


class Block(Protocol):
    """A layer of an architecture.

    The residual stream is carried beside the block's output, and added by the next block's first norm. x and residual
    ``[B, T, hidden]``, rotary the tables of these T positions, state what a prefix left, lengths int64 ``[B]``.
    """

    def __call__(
        self, x: Tensor, residual: Tensor | None, rotary: State, state: State | None, keep_state: bool = False
    ) -> tuple[Tensor, Tensor, State | None]:
        """Output and residual stream at all positions, and the state after them if it is to be kept."""

    def last(
        self, x: Tensor, residual: Tensor | None, rotary: State, state: State | None, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output and residual stream at each text's last position, ``[B, 1, hidden]``."""

    def matrices(self) -> Iterator[tuple[Weight, tuple[str, ...]]]:
        """Each merged matrix, and the canonical names, without the layer's, of what is stacked in it by rows."""


def at_last(x: Tensor, lengths: Tensor) -> Tensor:
    """x ``[B, T, ...]`` at each row's position ``lengths - 1``: ``[B, 1, ...]``."""
    return x[torch.arange(len(x), dtype=torch.int64, device=x.device), lengths - 1].unsqueeze(1)
