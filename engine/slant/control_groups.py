"""What Linux's control groups leave to this process: a container may see 64 CPUs and 256 GB, and be given two and four.

Both versions of them, and all parents of the process's own group. ``root`` is where ``proc`` and ``sys`` are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NO_LIMIT = 2**60  # version 1 writes the largest multiple of a page for none
ROOT = Path("/")
# Of memory.stat: what the kernel takes back before it ends a process. Shared memory is in neither list.
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")


class Room(NamedTuple):
    """Bytes: what is free of a limit, and what sets it."""

    free: int
    limit: int
    source: str


def cpu_quota(root: Path = ROOT) -> int | None:
    """The CPUs that this process's control group and its parents allow, rounded up; None without a limit.

    Rounded up, since the last part of a CPU is worth a thread.
    """
    shares = []
    for folder, second in _folders("cpu", root):
        if second:
            quota, period = (_words(folder / "cpu.max") + ["max", "max"])[:2]
        else:
            quota, period = ("".join(_words(folder / f"cpu.cfs_{name}_us")[:1]) for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # "max", and -1, are no limit
            shares.append(int(quota) / int(period))
    return max(1, math.ceil(min(shares) - 1e-9)) if shares else None


def memory_room(root: Path = ROOT) -> Room | None:
    """The least that this process's control group and its parents leave; None without a limit.

    Pages of files do not count as used: a checkpoint that was read once lies there until the memory is needed. Above
    ``memory.high`` a process is not ended but stopped, again and again, which is no better.
    """
    rooms = []
    for folder, second in _folders("memory", root):
        names = ("memory.max", "memory.high") if second else ("memory.limit_in_bytes",)
        limits = [(size, folder / name) for name in names if (size := _number(folder / name)) is not None]
        limits = [each for each in limits if each[0] < NO_LIMIT]
        if limits:
            limit, path = min(limits)
            used = _number(folder / ("memory.current" if second else "memory.usage_in_bytes")) or 0
            rooms.append(
                Room(max(0, limit - max(0, used - _reclaimable(folder))), limit, f"the control group ({path})")
            )
    return min(rooms, default=None)


def _reclaimable(folder: Path) -> int:
    """Of the group with those below it, which version 1 tells apart from the group alone."""
    words = _words(folder / "memory.stat")
    found = {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}
    return sum(found.get(f"total_{name}", found.get(name, 0)) for name in RECLAIMABLE)


def _folders(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's group and of its parents, innermost first; whether they are of version 2."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if not controllers else controller)
        own = top / path.lstrip("/")
        for folder in (own, *own.parents) if own.is_relative_to(top) else (top,):
            if not folder.is_relative_to(top):
                break
            yield folder, not controllers


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []
