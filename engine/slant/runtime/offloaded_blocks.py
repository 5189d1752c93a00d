"""Layer offloading: blocks of which the device holds one or two at a time, read from disk or copied from the host."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from slant.model.block import Block, Part
from slant.model.host_memory import lock, pages
from slant.model.registry import load_block
from slant.model.weights import Weights
from slant_kernels.fp8 import Fp8Matrix
from slant_kernels.merged import MergedMatrix
from slant_kernels.quantized import QuantizedMatrix

ALIGNMENT = 256  # bytes; what torch's own allocations on a GPU have


class OffloadedBlocks(Protocol):
    """The blocks in order, each to be used within ``with blocks.use(index) as block``."""

    def __len__(self) -> int: ...
    def use(self, index: int) -> AbstractContextManager[Block]: ...


class BlocksOnDisk:
    """Reads a block from its source each time it is used, and keeps none."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __len__(self) -> int:
        return self._weights.source.config.num_hidden_layers

    @contextmanager
    def use(self, index: int) -> Iterator[Block]:
        yield load_block(self._weights, index)


class BlocksInHostMemory:
    """Blocks in pinned host memory that visit one of two slots on the device, each while the one before it computes.

    A block is one piece of memory, on the host and in the slot, so that it travels as one copy.
    """

    def __init__(
        self,
        weights: Weights,
        device: torch.device,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """weights: reads into host memory, with a scratch on ``device`` if matrices stay quantized."""
        config, pinned = weights.source.config, device.type == "cuda"
        blocks, self._host = [], []
        for index in range(config.num_hidden_layers):
            block = load_block(weights, index)
            size = sum(_room(tensor) for tensor in tensors(block))
            self._host.append(pages(size))
            blocks.append(placed(block, self._host[-1], fill=True))
            progress(index + 1, config.num_hidden_layers)
        if pinned:
            lock(self, self._host)
        most = max(len(host) for host in self._host)
        self._slots = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(2)]
        self._views = [placed(block, self._slots[index % 2]) for index, block in enumerate(blocks)]
        self._held: list[int | None] = [None, None]
        self._device = device
        self._copies = torch.cuda.Stream(device) if pinned else None
        self._arrived, self._free = ([torch.cuda.Event(), torch.cuda.Event()] if pinned else [] for _ in range(2))
        if self._copies is not None:  # the slots' memory may have been another's, in work that is still queued
            self._copies.wait_stream(torch.cuda.current_stream(device))

    def __len__(self) -> int:
        return len(self._views)

    @contextmanager
    def use(self, index: int) -> Iterator[Block]:
        """The block on the device; work queued on it within is done before its slot is filled again."""
        slot, following = index % 2, (index + 1) % len(self)
        self._fetch(index)
        if following % 2 != slot:
            self._fetch(following)
        if self._copies is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived[slot])
        yield self._views[index]
        if self._copies is not None:
            self._free[slot].record(torch.cuda.current_stream(self._device))

    def _fetch(self, index: int) -> None:
        slot = index % 2
        if self._held[slot] == index:
            return
        with torch.cuda.stream(self._copies) if self._copies is not None else nullcontext():
            if self._copies is not None:
                self._copies.wait_event(self._free[slot])
            host = self._host[index]
            self._slots[slot][: len(host)].copy_(host, non_blocking=True)
            if self._copies is not None:
                self._arrived[slot].record(self._copies)
        self._held[slot] = index


def mapped(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a block, or of a part of one, with every tensor in it changed, always in the same order."""
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, MergedMatrix):
        return replace(thing, parts=tuple(mapped(part, change) for part in thing.parts))
    if isinstance(thing, tuple):
        return tuple(mapped(part, change) for part in thing)
    if isinstance(thing, Fp8Matrix):
        return replace(thing, codes=change(thing.codes), scales=change(thing.scales))
    if isinstance(thing, QuantizedMatrix):
        return replace(thing, codes=change(thing.codes), scales=change(thing.scales), zeros=change(thing.zeros))
    if isinstance(thing, Part):
        new = copy.copy(thing)
        for name, value in vars(thing).items():
            setattr(new, name, mapped(value, change))
        return new
    return thing


def tensors(block: Block) -> list[Tensor]:
    """All tensors of a block."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(block, keep)
    return found


def placed(block: Block, memory: Tensor, *, fill: bool = False) -> Block:
    """The block with its tensors lying in ``memory`` one after the other; with ``fill`` their values are copied."""
    start = 0

    def place(tensor: Tensor) -> Tensor:
        nonlocal start
        view = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)
        return view.copy_(tensor) if fill else view

    moved: Block = mapped(block, place)
    return moved


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
