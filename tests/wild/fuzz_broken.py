"""A target that does everything a fuzzer is there to find."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random


def broken(folder: Path) -> Callable[[Random], str]:
    def check(random: Random) -> str:
        kind = random.choice(("answers", "raises", "grows", "exits", "hangs"))
        if kind == "raises":
            raise ZeroDivisionError("as a bug would")
        if kind == "grows":
            bytearray(8 << 30)
        if kind == "exits":
            os._exit(7)
        if kind == "hangs":
            time.sleep(3600)
        return kind

    return check
