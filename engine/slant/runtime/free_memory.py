"""The memory that weights and batches may take where nobody says: most of what is free, of a GPU or of the machine.

On a CPU that is the least of what the machine has available and what each control group leaves: a process that takes
more than that is killed without a word.
"""

from __future__ import annotations

from pathlib import Path

import torch

from slant.control_groups import ROOT, Room, memory_room
from slant.runtime.allocator import KEPT
from slant.runtime.memory import human
from slant.runtime.resolved import ResolvedOptions

# The rest is for libraries' workspaces, an allocator's gaps, and what a prediction is off by.
SHARE = 0.92
KEPT_SHARE = 0.12  # of freed memory that the C library keeps: less than KEPT where that would be most of a container


def memory_limit(options: ResolvedOptions) -> tuple[int | None, str]:
    """The bytes that may be taken, and what sets that limit; None where nothing does, "" where the user did."""
    if options.memory is not None:
        return options.memory, ""
    if options.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(options.device)
        room: Room | None = Room(free, total, str(options.device))
    else:
        room = host_memory()
    if room is None:
        return None, ""
    limit = room.free * SHARE
    if options.device.type == "cpu":
        limit -= min(KEPT, room.free * KEPT_SHARE)
    return int(limit), f"what slant takes of the {human(room.free)} that {room.source} has free"


def host_memory(root: Path = ROOT) -> Room | None:
    """What is available to this process on a CPU; None where the system does not say."""
    rooms = [_machine(root), memory_room(root)]
    return min((room for room in rooms if room is not None), default=None)


def _machine(root: Path) -> Room | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
        return Room(sizes["MemAvailable"], sizes["MemTotal"], "the machine")
    except (OSError, ValueError, KeyError, IndexError):
        return None
