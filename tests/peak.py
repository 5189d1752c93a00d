"""Bytes of live tensors at the peak of a block of code, without the allocator's rounding, and those of the process."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakBytes(TorchDispatchMode):
    """``with PeakBytes() as peak: ...; peak.bytes`` counts storages that operations inside created; ``live`` now."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.live = 0
        self._known: set[int] = set()
        self._own: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn:
                self._ignore(tensor.untyped_storage())
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                if tensor.is_mkldnn:  # in oneDNN's order: it has no storage, and one tensor holds it
                    self._count(id(tensor), tensor)
                else:
                    self._count(tensor.untyped_storage()._cdata, tensor.untyped_storage())
        return out

    def _ignore(self, storage: torch.UntypedStorage) -> None:
        """Until it is freed: another storage may then have its address, and counts."""
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            weakref.finalize(storage, self._known.discard, storage._cdata)

    def _count(self, key: int, memory: torch.UntypedStorage | torch.Tensor) -> None:
        if key in self._known:
            return
        size = memory.nbytes() if isinstance(memory, torch.UntypedStorage) else memory.nbytes
        self._known.add(key)
        self.live += size
        self.bytes = max(self.bytes, self.live)
        weakref.finalize(memory, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def resident_bytes(field: str = "VmRSS") -> int:
    """Of this process, as Linux counts them: now, or with "VmHWM" at its peak."""
    found = re.search(field + r":\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) * 1024
