"""A search of one op's configurations, by table and shape class; and which rows of the tables are looked up.

From the committed configuration, every neighbour is tried: one block size, the warps or the stages halved or doubled
(stages: one more or less). The best one is the next start, until no neighbour gains more than ``GAIN``. A configuration
is worth the geometric mean of its times over the class's cases; it is out if it does not compile or answers otherwise.
What comes out is printed as a row to paste into the table.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import torch
from rich.console import Console

import slant_kernels
from gpu.case import Case
from gpu.device import DryRun, input_sets, tensors, turns
from slant_kernels.launch import Config, Table, target

GAIN = 0.01  # less is noise
ALIKE = 1e-2  # of the norm: another order of additions in bf16 stays under it, a wrong tile does not
BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WARPS = (1, 2, 4, 8, 16)
STAGES = (1, 2, 3, 4, 5)
Slot = tuple[str, str]
"""A row of a table: where it stands, like "norm.ROW", and the shape class that asks for it."""


def named_tables() -> dict[str, Table]:
    """Every table of the kernels by where it stands, like "norm.ROW"; each once."""
    found: dict[int, tuple[str, Table]] = {}
    for info in pkgutil.iter_modules(slant_kernels.__path__, "slant_kernels."):
        for name, table in vars(importlib.import_module(info.name)).items():
            if isinstance(table, Table):
                found.setdefault(id(table), (f"{info.name.rpartition('.')[2]}.{name}", table))
    return dict(found.values())


@contextmanager
def lookups(answer: Callable[[Slot], Config | None] = lambda slot: None) -> Iterator[dict[Slot, Config]]:
    """Within it, the rows that are looked up with what was found; ``answer`` may give another configuration."""
    names, seen, find = {id(table): name for name, table in named_tables().items()}, dict[Slot, Config](), Table.find

    def found(table: Table, device: torch.device, shape_class: str = "") -> Config:
        slot = names.get(id(table), "?"), shape_class
        seen[slot] = answer(slot) or find(table, device, shape_class)
        return seen[slot]

    with mock.patch.object(Table, "find", found):
        yield seen


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


def searches(device: DryRun, cache: int, seconds: float, cases: Sequence[Case], console: Console) -> list[Search]:
    """One for each row that the cases look up, with the cases that do."""
    asked: dict[Slot, Search] = {}
    for case in cases:
        with lookups() as seen:
            case.run(*case.make(device.place))
        for slot, config in seen.items():
            asked.setdefault(slot, Search(device, cache, seconds, slot, config, console)).cases.append(case)
    return list(asked.values())


def run(
    device: DryRun, cache: int, seconds: float, cases: Sequence[Case], console: Console, stamp: str, deadline: float
) -> int:
    """Search every row the cases use; ``stamp`` says in the pasted row what measured it."""
    for search in searches(device, cache, seconds, cases, console):
        if not any(neighbours(search.start)):  # a threshold, or a count of processors
            continue
        best, (where, shape_class) = search.climb(deadline), search.slot
        gain = search.worth[_key(search.start)] / search.worth[_key(best)]
        console.print(f"{where}, class {shape_class!r}: {gain:.3f} times as fast as committed. The row:")
        console.print(row(shape_class, best, target(device.place), stamp), markup=False, highlight=False)
    return 0


def row(shape_class: str, config: Config, target: str, stamp: str) -> str:
    parts = [repr(dict(config.blocks))] if config.blocks else []
    parts += [f"num_warps={config.num_warps}", f"num_stages={config.num_stages}", f'measured="{stamp}"']
    return f'("{shape_class}", "{target}"): Config({", ".join(parts)}),'


@dataclass
class Search:
    """Hill climbing over one slot from ``start``; every configuration tried is printed once."""

    device: DryRun
    cache: int
    seconds: float
    slot: Slot
    start: Config
    console: Console
    cases: list[Case] = field(default_factory=list)
    worth: dict[Any, float] = field(default_factory=dict)

    def climb(self, deadline: float) -> Config:
        """The best configuration found before ``deadline``, a time of ``time.monotonic``."""
        best = self.start
        self.worth[_key(best)] = self.try_out(best)
        while time.monotonic() < deadline:
            tried = []
            for config in (config for config in neighbours(best) if _key(config) not in self.worth):
                if time.monotonic() < deadline:
                    self.worth[_key(config)] = self.try_out(config)
                    tried.append(config)
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
        expected = [tensor.clone() for tensor in tensors(case.run(*sets[0]))]  # some write into an argument
        with lookups(lambda slot: config if slot == self.slot else None):
            for out, wanted in zip(tensors(case.run(*sets[0])), expected, strict=True):
                if not bool((out.float() - wanted.float()).norm() <= ALIKE * wanted.float().norm()):
                    raise ValueError(f"another answer for {case.label}")
            sample = self.device.loop(case.run, sets, captured=True)
        return median(turns({"": sample}, self.seconds)[""])


def _key(config: Config) -> tuple[Any, ...]:
    return tuple(config.blocks.items()), config.num_warps, config.num_stages
