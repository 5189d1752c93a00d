"""Page-locked host memory, which a GPU copies from, or reads, without the processor.

torch's own page-locked memory comes in powers of two, up to twice what is asked for: too much for whole models. So
pages are taken from the system and locked in place.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor


def pages(size: int) -> Tensor:
    """``size`` bytes (uint8) of pages of their own: two of these never share one, which can be locked only once."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)


def lock(owner: object, pieces: Sequence[Tensor]) -> None:
    """Page-lock memory made by ``pages``, until the owner is gone."""
    runtime = torch.cuda.cudart()
    for piece in pieces:
        torch.cuda.check_error(int(runtime.cudaHostRegister(piece.data_ptr(), piece.nbytes, 0)))

    def unlock(pieces: Sequence[Tensor]) -> None:
        for piece in pieces:
            runtime.cudaHostUnregister(piece.data_ptr())

    weakref.finalize(owner, unlock, pieces).atexit = False
