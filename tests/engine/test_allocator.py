"""Freed memory is kept for the next batch, unless the environment says otherwise. Each in a process of its own."""

import platform

import pytest

import child

MAPPED = """
import ctypes, sys
from slant.runtime.allocator import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(str(i), ctypes.c_size_t) for i in range(4)] + [("hblkhd", ctypes.c_size_t)]
    _fields_ += [(str(i), ctypes.c_size_t) for i in range(5, 10)]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
before = mallinfo().hblkhd
block = bytearray(16 << 20)
print(kept, mallinfo().hblkhd - before >= len(block))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def run(how, **variables):
    """Whether memory is kept, and whether a block of 16 MB was mapped, to be given back when it is freed."""
    printed = child.python("-c", MAPPED, how, without=("MALLOC_", "GLIBC_"), **variables).stdout
    return tuple(word == "True" for word in printed.split())


def test_large_blocks_come_from_kept_memory():
    assert run("keep") == (True, False)
    assert run("leave") == (False, True)


def test_settings_in_the_environment_stay():
    assert run("keep", MALLOC_ARENA_MAX="2") == (False, True)
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2") == (False, True)
