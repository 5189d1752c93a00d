"""The whole-model part of the GPU suite without a GPU: tiny shapes on the CPU's torch path, and no time is told.

It shows that every measure runs to its rows and tables, before a GPU is paid for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from gpu import cold_start, model
from gpu.device import Body, Kernel
from gpu.dry_run import TINY
from gpu.model_measures import Bench, Scope
from gpu.timing import Limits
from random_model import SHAPES
from slant.runtime.execution import Capture, stand_in_capture

SCOPE = Scope(
    TINY,
    max_tokens=160,
    token_budget=320,
    lengths=(40, 160),
    texts={"posts": 6, "speeches": 3, "articles": 2},
    short=16,
    batches=((1, 12), (2, 70)),
    rounds=1,
    requests=(2, 2),
)
# transformers' own names of the settings that TINY changes.
PEER = SHAPES["4b"] | {key: getattr(TINY, key) for key in SHAPES["4b"].keys() & vars(TINY).keys()}
KERNELS = ("_rms_norm_kernel", "_serial_kernel", "sm90_xmma_gemm_bf16", "flash_fwd_kernel", "Memcpy HtoD")


class NoGpu:
    """The CPU in a GPU's place: runs everything and tells no time, no memory and no kernel's share."""

    def __init__(self) -> None:
        self.place = torch.device("cpu")

    def seconds(self, body: Body) -> float:
        body()
        return math.nan

    def held(self) -> float:
        return math.nan

    def peak(self, body: Body) -> float:
        body()
        return math.nan

    def kernels(self, body: Body) -> list[Kernel]:
        body()
        return [Kernel(name, 1, math.nan) for name in KERNELS]

    def capture(self) -> Capture:
        return stand_in_capture

    def free(self) -> None:
        """Nothing is cached."""


def run(console: Console, parts: Sequence[str] = ("model", "peers"), cold: bool = True) -> int:
    """The parts that are asked for; the cold start is a process of its own and takes seconds."""
    rows: list[dict[str, Any]] = []
    journal = model.Journal(rows.append, [], [])
    bench = Bench(NoGpu(), Limits(math.inf, math.inf), SCOPE)
    if "model" in parts:
        model.measure(bench, journal, math.inf)
        if cold:
            started = cold_start.suite("cpu", ("compiled",))
            journal.take("cold start", "demo checkpoint, bf16", (row | _untold(row) for row in started))
    if "peers" in parts:
        model.beside(bench, journal, PEER, math.inf)
    for row in rows:
        json.dumps(row)
    status = model.show(journal, console)
    console.print(f"{len(rows)} rows were made; nothing was timed and nothing written.")
    return status or int(bool(journal.undone))


def _untold(row: dict[str, Any]) -> dict[str, Any]:
    """The seconds of a CPU are no one's."""
    return {"seconds": dict.fromkeys(row["seconds"], math.nan), "total_seconds": math.nan}
