"""A search of one op's configurations, by table and shape class.

From the committed configuration, every neighbour is tried: one block size, the warps or the stages halved or doubled
(stages: one more or less). The best one is the next start, until no neighbour gains more than ``GAIN``. A configuration
is worth the geometric mean of its times over the class's cases; it is out if it does not compile or answers otherwise.
What comes out is printed as a row to paste into the table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from torch import Tensor

from gpu.case import Case
from gpu.device import DryRun, input_sets, turns
from gpu.lookups import lookups, named_tables
from slant_kernels.launch import Config, Table, target

GAIN = 0.01  # less is noise
ALIKE = 1e-2  # of the norm: another order of additions in bf16 stays under it, a wrong tile does not
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WARPS = (1, 2, 4, 8, 16)
STAGES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Slot:
    """A row of a table: where it stands, like "norm.ROW", and the shape class that asks for it."""

    where: str
    table: Table
    shape_class: str


def neighbours(config: Config) -> Iterator[Config]:
    """The configurations one step away, within the ranges above."""

    def around(values: Sequence[int], value: int) -> list[int]:
        at = values.index(value) if value in values else -9
        return [values[i] for i in (at - 1, at + 1) if 0 <= i < len(values)]

    for name, size in config.blocks.items():
        for other in around(BLOCKS, size):
            yield replace(config, blocks={**config.blocks, name: other}, measured="")
    for warps in around(WARPS, config.num_warps):
        yield replace(config, num_warps=warps, measured="")
    for stages in around(STAGES, config.num_stages):
        yield replace(config, num_stages=stages, measured="")


@contextmanager
def using(slot: Slot, config: Config) -> Iterator[None]:
    """Within it, the slot's table answers with ``config`` for its class."""
    find = Table.find

    def found(table: Table, device: torch.device, shape_class: str = "") -> Config:
        same = table is slot.table and shape_class == slot.shape_class
        return config if same else find(table, device, shape_class)

    with mock.patch.object(Table, "find", found):
        yield


def slots(cases: Sequence[Case], device: torch.device) -> dict[tuple[str, str], tuple[Slot, list[Case]]]:
    """The rows that the cases look up, each with the cases that do."""
    names = {id(table): where for where, table in named_tables().items()}
    asked: dict[tuple[str, str], tuple[Slot, list[Case]]] = {}
    for case in cases:
        with lookups() as seen:
            case.run(*case.make(device))
        for table, shape_class in {(id(table), c): (table, c) for table, c, _ in seen}.values():
            where = names.get(id(table), "?")
            asked.setdefault((where, shape_class), (Slot(where, table, shape_class), []))[1].append(case)
    return asked


def run(
    device: DryRun, cache: int, seconds: float, cases: Sequence[Case], console: Console, stamp: str, deadline: float
) -> int:
    """Search every row the cases use; ``stamp`` says in the pasted row what measured it."""
    for slot, users in slots(cases, device.place).values():
        search = Search(device, cache, seconds, slot, users, console)
        if not any(neighbours(search.start)):  # a threshold, or a count of processors
            continue
        best = search.climb(deadline)
        gain = search.worth[_key(search.start)] / search.worth[_key(best)]
        console.print(f"{slot.where}, class {slot.shape_class!r}: {gain:.3f} times as fast as committed. The row:")
        console.print(row(slot, best, target(device.place), stamp), markup=False, highlight=False)
    return 0


def row(slot: Slot, config: Config, target: str, stamp: str) -> str:
    parts = [repr(dict(config.blocks))] if config.blocks else []
    parts += [f"num_warps={config.num_warps}", f"num_stages={config.num_stages}", f'measured="{stamp}"']
    return f'("{slot.shape_class}", "{target}"): Config({", ".join(parts)}),'


class Search:
    """Hill climbing over one slot; every configuration tried is printed once."""

    def __init__(
        self, device: DryRun, cache: int, seconds: float, slot: Slot, cases: Sequence[Case], console: Console
    ) -> None:
        self.device, self.cache, self.seconds = device, cache, seconds
        self.slot, self.cases, self.console = slot, cases, console
        self.start = slot.table.find(device.place, slot.shape_class)
        self.worth: dict[Any, float] = {}

    def climb(self, deadline: float) -> Config:
        """The best configuration found before ``deadline``, a time of ``time.monotonic``."""
        best = self.start
        self.worth[_key(best)] = self.try_out(best)
        while time.monotonic() < deadline:
            candidates = [config for config in neighbours(best) if _key(config) not in self.worth]
            for config in candidates:
                if time.monotonic() < deadline:
                    self.worth[_key(config)] = self.try_out(config)
            tried = [config for config in candidates if _key(config) in self.worth]
            better = min(tried, key=lambda config: self.worth[_key(config)], default=best)
            if self.worth[_key(better)] > self.worth[_key(best)] * (1 - GAIN):
                break
            best = better
        return best

    def try_out(self, config: Config) -> float:
        """The geometric mean of seconds a call; infinite if the configuration is out."""
        name = f"{dict(config.blocks)} warps {config.num_warps} stages {config.num_stages}"
        try:
            logs = [math.log(self._seconds(case, config)) for case in self.cases]
        except Exception as error:  # Triton's errors are many: shared memory, registers, the compiler
            self.console.print(f"{name}: {type(error).__name__} {(str(error).strip().splitlines() or [''])[0]}")
            return math.inf
        worth = math.exp(sum(logs) / len(logs))
        self.console.print(f"{name}: {1e6 * worth:.1f} µs")
        return worth

    def _seconds(self, case: Case, config: Config) -> float:
        # Made anew each time: the cases of a class together need not fit in memory.
        sets = input_sets(partial(case.make, self.device.place), case.bytes, self.cache)
        expected = [tensor.clone() for tensor in flat(case.run(*sets[0]))]  # some write into an argument
        with using(self.slot, config):
            for out, wanted in zip(flat(case.run(*sets[0])), expected, strict=True):
                if not bool((out.float() - wanted.float()).norm() <= ALIKE * wanted.float().norm()):
                    raise ValueError(f"another answer for {case.label}")
            sample = self.device.loop(case.run, sets, captured=True)
        return median(turns({"": sample}, self.seconds)[""])


def flat(value: Any) -> list[Tensor]:
    """The tensors of a result."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)] if isinstance(value, tuple | list) else []


def _key(config: Config) -> tuple[Any, ...]:
    return tuple(config.blocks.items()), config.num_warps, config.num_stages
