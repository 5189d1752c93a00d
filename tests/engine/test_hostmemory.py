"""Freed memory is kept for the next batch, unless the environment says otherwise. Each in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from slant.hostmemory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def touch():
    for _ in range(20):
        several = [torch.ones(4 << 20) for _ in range(4)]  # of 16 MB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def run(how, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS, how]
    printed = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout
    kept, faults = printed.split()
    return kept == "True", int(faults)


def test_kept_memory_is_not_faulted_in_again():
    kept, faults = run("keep")
    left, again = run("leave")
    assert kept
    assert not left
    assert faults < 100 < again


def test_settings_in_the_environment_stay():
    assert not run("keep", MALLOC_ARENA_MAX="2")[0]
    assert not run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0]
