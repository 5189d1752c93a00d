"""Host memory: pages that a GPU copies from, or reads, without the processor; and memory that a CPU uses again.

torch's own page-locked memory comes in powers of two, up to twice what is asked for: too much for whole models. So
pages are taken from the system and locked in place.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

# Of glibc's malloc.h. The first is as large as glibc takes it, and as the intermediates of a batch are at most.
MMAP_THRESHOLD, LARGEST = -3, 32 * 2**20
TRIM_THRESHOLD, KEPT = -1, 512 * 2**20


def keep_freed_memory() -> bool:
    """Have malloc keep memory that a batch has freed for the next one; whether that was possible.

    glibc gives large blocks back to the system at once, and to touch them again cost 13 % of a forward (170,000 page
    faults at 1024 tokens). It is a setting of the whole process, which then holds up to 512 MB of freed memory. What
    the environment sets (``MALLOC_...``, ``GLIBC_TUNABLES``) stays.
    """
    if platform.libc_ver()[0] != "glibc" or any(n.startswith(("MALLOC_", "GLIBC_TUNABLES")) for n in os.environ):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(MMAP_THRESHOLD, LARGEST) and libc.mallopt(TRIM_THRESHOLD, KEPT))


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
