"""The time of an op with every configuration worth trying, by table and shape class.

A configuration is worth the geometric mean of its times over the class's cases; it is out if it does not compile or
answers otherwise. Every one is a row of the result file, and the best is printed as a row to paste into the table.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median
from typing import Any
from unittest import mock

import torch
from rich.console import Console

import slant_kernels
from gpu.case import Case
from gpu.device import DryRun, input_sets, tensors, turns
from harness.rows import Row
from slant_kernels.launch import Config, Table, target

NAME = "gpu_tune"
ALIKE = 1e-2  # of the norm: another order of additions in bf16 stays under it, a wrong tile does not
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


def grid(
    warps: Sequence[int], stages: Sequence[int] = (1,), registers: Sequence[int] = (0,), **blocks: Sequence[int]
) -> tuple[Config, ...]:
    """All combinations of warps, stages, registers and block sizes."""
    sizes = [dict(zip(blocks, values, strict=True)) for values in product(*blocks.values())]
    return tuple(Config(size, w, s, registers=r) for size, w, s, r in product(sizes, warps, stages, registers))


def tiles(BM: int, *found: tuple[int, int, int, int]) -> tuple[Config, ...]:
    """The fused product's tiles for BM tokens: rows of W, columns, warps and stages."""
    return tuple(Config({"BN": n, "BM": BM, "BK": k}, warps, stages) for n, k, warps, stages in found)


# What is tried beside the committed configuration, by table or by table and shape class.
CANDIDATES: dict[str, tuple[Config, ...]] = {
    "delta_rule_kernel.PREPARE": grid((1, 2, 4), registers=(0, 168, 128)),
    "delta_rule_kernel.SERIAL": grid((4, 8), (1, 2, 3, 4), BV=(32, 64, 128)),
    "delta_inputs.TILE": grid((2, 4, 8), BT=(16, 32, 64)),
    "attention.PIECE": tuple(
        Config({"BS": size, "BN": keys, "W": warps}, num_warps=warps)
        for size, keys, warps in product((64, 128, 256), (2, 4), (4, 8))
    ),
    "norm.ROW": grid((1, 2, 4, 8)),
    "norm.GATED": grid((4, 8), BM=(8, 16, 32)),
    "swiglu.SWIGLU": grid((4, 8), BN=(512, 1024, 2048)),
    "rotary.ROTARY": grid((4, 8), BM=(4, 8, 16, 32)),
    "rotary.GATE": grid((4, 8), BM=(4, 8, 16, 32)),
    "quantized.DEQUANTIZE": tuple(
        Config({"BN": rows, "BB": blocks}, warps)
        for rows, blocks, warps in ((32, 1, 4), (64, 1, 4), (64, 2, 8), (16, 4, 4), (32, 4, 8), (8, 8, 4), (16, 8, 8))
    ),
    "quantized_linear.FUSED": grid((4,), M=(0, 256)),
    "quantized_linear.PROGRAMS 16": grid((4,), PROGRAMS=(264, 528, 792)),
    "quantized_linear.PROGRAMS 64": grid((4,), PROGRAMS=(264, 528)),
    "quantized_linear.PROGRAMS 128": grid((4,), PROGRAMS=(132, 396)),
    "quantized_linear.TILES 16": tiles(16, (64, 128, 4, 2), (64, 128, 4, 4), (64, 64, 4, 4), (128, 128, 4, 3)),
    "quantized_linear.TILES 64": tiles(64, (64, 128, 4, 3), (128, 64, 8, 3), (128, 64, 4, 3)),
    "quantized_linear.TILES 128": tiles(128, (64, 64, 4, 4), (128, 64, 8, 3), (128, 128, 8, 3)),
}
# The shapes of the waterfall, and few enough products.
SHAPES = re.compile(r"1 x 128|8 x 1024|1 x 8192|(gate_up 4|out_proj 8)/64(, (16|64|128|256|512))?")


def candidates(slot: Slot) -> tuple[Config, ...]:
    return CANDIDATES.get(" ".join(slot), CANDIDATES.get(slot[0], ()))


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
    device: DryRun,
    cache: int,
    seconds: float,
    cases: Sequence[Case],
    console: Console,
    stamp: str,
    deadline: float,
    write: Callable[[Row], None] = lambda row: None,
) -> int:
    """Try all candidates of every table that the cases look up; ``stamp`` says in the pasted row what measured it."""
    for search in searches(device, cache, seconds, cases, console):
        best, (where, shape_class) = search.sweep(candidates(search.slot), deadline, write), search.slot
        gain = search.worth[_key(search.start)] / search.worth[_key(best)]
        console.print(f"{where}, class {shape_class!r}: {gain:.3f} times as fast as committed. The row:")
        console.print(row(shape_class, best, target(device.place), stamp), markup=False, highlight=False)
    return 0


def row(shape_class: str, config: Config, target: str, stamp: str) -> str:
    parts = [repr(dict(config.blocks))] if config.blocks else []
    parts += [f"num_warps={config.num_warps}", f"num_stages={config.num_stages}", f'measured="{stamp}"']
    parts += [f"registers={config.registers}"] if config.registers else []
    return f'("{shape_class}", "{target}"): Config({", ".join(parts)}),'


@dataclass
class Search:
    """The configurations of one slot, of which ``start`` is the committed one."""

    device: DryRun
    cache: int
    seconds: float
    slot: Slot
    start: Config
    console: Console
    cases: list[Case] = field(default_factory=list)
    worth: dict[Any, float] = field(default_factory=dict)
    times: dict[Any, dict[str, float]] = field(default_factory=dict)  # microseconds by case

    def sweep(
        self, candidates: Sequence[Config], deadline: float, write: Callable[[Row], None] = lambda row: None
    ) -> Config:
        """The best of the committed one and the candidates; none is tried after ``deadline``, of ``time.monotonic``."""
        best = self.start
        for config in (best, *candidates):
            if _key(config) in self.worth or (time.monotonic() > deadline and self.worth):
                continue
            self.worth[_key(config)] = worth = self.try_out(config)
            best = config if worth < self.worth[_key(best)] else best
            about = {"table": self.slot[0], "class": self.slot[1], "blocks": dict(config.blocks)}
            about |= {"warps": config.num_warps, "stages": config.num_stages, "registers": config.registers}
            write(about | {"microseconds": self.times.get(_key(config))})
        return best

    def try_out(self, config: Config) -> float:
        """The geometric mean of seconds a call; infinite if the configuration is out."""
        name = f"{dict(config.blocks)} warps {config.num_warps} stages {config.num_stages} {config.registers or ''}"
        try:
            seconds = {f"{case.op} {case.label}": self._seconds(case, config) for case in self.cases}
        except Exception as error:  # Triton's errors are many: shared memory, registers, the compiler
            self.console.print(f"{name}: {type(error).__name__} {(str(error).strip().splitlines() or [''])[0]}")
            return math.inf
        self.times[_key(config)] = {case: round(1e6 * value, 2) for case, value in seconds.items()}
        worth = math.exp(sum(map(math.log, seconds.values())) / len(seconds))
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
    return tuple(config.blocks.items()), config.num_warps, config.num_stages, config.registers
