"""The cores that this process may use: what its affinity mask leaves, hyper-threads counted once, and the CPU quota.

Matrix products fill a core from one thread; a second one on the same core waits for it. Threads are not pinned, and
memory is not placed by NUMA node: all nodes that the mask leaves are used.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from slant.control_groups import ROOT, cpu_quota

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


@dataclass(frozen=True)
class Cores:
    """``cpus``: those of the affinity mask; ``cores``: hyper-threads of one core counted once; ``quota``: the control
    groups' CPUs, None without one; ``nodes``: the NUMA nodes that the CPUs are in."""

    cpus: int
    cores: int
    quota: int | None
    nodes: int

    @property
    def threads(self) -> int:
        """As many as compute at once."""
        return min(self.cores, self.quota or self.cores)

    def __str__(self) -> str:
        text = f"{self.cores} {'core' if self.cores == 1 else 'cores'}"
        text += f" of {self.cpus} hyper-threads" if self.cpus > self.cores else ""
        text += f" in {self.nodes} NUMA nodes" if self.nodes > 1 else ""
        return text + (f", of which a control group allows the time of {self.quota}" if self.quota else "")


def cores(root: Path = ROOT, mask: Collection[int] | None = None) -> Cores:
    """Those of this process. root: where ``proc`` and ``sys`` are; mask: the CPUs' numbers, else the process's."""
    mask = set(affinity() if mask is None else mask)
    siblings = {
        frozenset(_numbers(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") | {cpu})
        for cpu in mask
    }
    nodes = [_numbers(path) & mask for path in (root / "sys/devices/system/node").glob("node*/cpulist")]
    return Cores(len(mask), len(siblings), cpu_quota(root), max(1, len(list(filter(None, nodes)))))


def affinity() -> Collection[int]:
    """The CPUs of the affinity mask. Where OpenMP binds its threads, that is only this thread's, and all are given."""
    everything = range(os.cpu_count() or 1)
    if not hasattr(os, "sched_getaffinity") or any(os.environ.get(name) for name in BINDING):
        return everything
    return os.sched_getaffinity(0)


def _numbers(path: Path) -> set[int]:
    """The numbers of a list such as 0-3,8; none where it cannot be read."""
    try:
        parts = path.read_text(encoding="utf-8").strip().split(",")
        ends = [[int(number) for number in part.split("-")] for part in parts if part]
    except (OSError, ValueError):
        return set()
    return {number for first, *last in ends for number in range(first, (last or [first])[0] + 1)}
