"""The C library's allocator, told to keep the memory of one batch for the next."""

from __future__ import annotations

import ctypes
import os
import platform

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
