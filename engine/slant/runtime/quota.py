"""The CPU quota of a control group: a container may see 64 cores and be given the time of two."""

from __future__ import annotations

import math
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> int | None:
    """The CPUs that this process's control group and its parents allow, rounded up; None without a limit.

    Rounded up, since the last part of a CPU is worth a thread. root: where ``proc`` and ``sys`` are found.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    shares: list[float] = []
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if not controllers else "cpu")
        own = top / path.lstrip("/")
        for folder in (own, *own.parents) if own.is_relative_to(top) else (top,):
            if not folder.is_relative_to(top):
                break
            share = _v2(folder) if not controllers else _v1(folder)
            shares += [] if share is None else [share]
    return max(1, math.ceil(min(shares) - 1e-9)) if shares else None


def _v2(folder: Path) -> float | None:
    quota, period = (_words(folder / "cpu.max") + ["max", "max"])[:2]
    return _share(quota, period)


def _v1(folder: Path) -> float | None:
    quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _share(*quota[:1], *period[:1]) if quota and period else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _share(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None  # "max", and -1, are no limit
    return int(quota) / int(period)
