"""Compiles every kernel for every GPU it is meant for, without one, and keeps what the compilers said.

The cases of ``gpu/kernel_cases.py`` run on meta tensors, so that what is compiled is what the wrappers would launch on
that GPU. One row of ``results/compiled_kernels.jsonl`` is one compiled kernel; its key is a hash of all that the binary
depends on, so that a row whose key is current need not be compiled again. Every row is held to the target's shared
memory, to no spills and to matrix units where it multiplies matrices, and every committed configuration must be in use.

    python benchmarks/compile_kernels.py                            compile what is new, write the table
    python benchmarks/compile_kernels.py --check --target sm_90     write nothing; compile sm_90, compare with the table
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compiled import LIMITS, Row, fault, fingerprint, read, summary, variant, write
from gpu.case import Case
from gpu.kernel_cases import cases
from gpu.lookups import Lookup, lookups, named_tables
from harness.rows import RESULTS
from slant_kernels.cross import compiling, hooked
from slant_kernels.launch import Config, triton

TABLE = RESULTS / "compiled_kernels.jsonl"
META = torch.device("meta")

ConfigRow = tuple[str, str, str]
"""A committed configuration: its table like "norm.ROW", shape class, target."""


@dataclass
class Survey:
    """What the cases launched on one target: a row for each kernel, configurations in use, and what went wrong."""

    rows: dict[str, Row] = field(default_factory=dict)
    compiled: list[str] = field(default_factory=list)
    configs: set[ConfigRow] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def survey(target: str, cases: Sequence[Case], known: Mapping[str, Row]) -> Survey:
    """Run the cases for a target; kernels with a key in ``known`` are taken from there and not compiled.

    A kernel can be compiled once a process and target: Triton keeps it, and does not announce it again.
    """
    found, waiting, failed = Survey(), [], defaultdict(list)

    def hook(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        """Called by Triton for a kernel that this process has not compiled; True keeps it from compiling."""
        key = fingerprint(fn.jit_function, compile, target)
        if key in found.rows or key in waiting:
            return True
        if key in known:
            found.rows[key] = known[key]
            return True
        waiting.append(key)
        return False

    with compiling(target) as kernels, lookups() as seen, hooked(hook):
        for case in (case for case in cases if case.compiled):
            try:
                case.run(*case.make(META))
            except Exception as error:  # whatever a compiler throws is a finding about this case
                reason = (str(error).strip().splitlines() or [""])[-1]
                failed[f"{case.op} on {target}: {type(error).__name__}: {reason}"].append(case.label)
                del waiting[len(_real(kernels)) - len(found.compiled) :]
            for key, kernel in zip(waiting, _real(kernels)[len(found.compiled) :], strict=True):
                found.rows[key] = variant(key, kernel, target)
                found.compiled.append(key)
            waiting.clear()
    found.configs = used(seen, target)
    found.faults += [f"{reason} ({', '.join(labels)})" for reason, labels in failed.items()]
    found.faults += [problem for row in found.rows.values() if (problem := fault(row))]
    return found


def tables() -> dict[ConfigRow, Config]:
    """Every committed configuration."""
    return {(where, *key): config for where, table in named_tables().items() for key, config in table.rows.items()}


def used(seen: Iterable[Lookup], target: str) -> set[ConfigRow]:
    """The committed configurations that were looked up."""
    names, found = {id(table): where for where, table in named_tables().items()}, set()
    for table, shape_class, config in seen:
        own = (shape_class, target) if table.rows.get((shape_class, target)) is config else (shape_class, "")
        if id(table) in names:
            found.add((names[id(table)], *own))
    return found


def _real(kernels: Iterable[Any]) -> list[Any]:
    """Without the None that stands for kernels that were not compiled."""
    return [kernel for kernel in kernels if kernel is not None]


def check(targets: Sequence[str], cases: Sequence[Case], table: Mapping[str, Row], again: Iterable[str]) -> list[str]:
    """Faults of the table as it is: missing, stale or out of bounds; rows with a key in ``again`` are compiled anew."""
    faults, configs, kept = [], set(), {key: row for key, row in table.items() if key not in set(again)}
    for target in targets:
        found = survey(target, cases, kept)
        faults += found.faults
        configs |= found.configs
        for key, row in found.rows.items():
            name = f"{row['kernel']} on {target} ({row['constants']})"
            if key not in table:
                faults.append(f"{name} is not in the table; run benchmarks/compile_kernels.py")
            elif row != table[key]:
                said = {column: (table[key].get(column), value) for column, value in row.items()}
                differences = {column: pair for column, pair in said.items() if pair[0] != pair[1]}
                faults.append(f"{name} is not what the table says (table, compiled): {differences}")
        there = {key for key, row in table.items() if row["target"] == target}
        faults += [f"a row of {table[key]['kernel']} on {target} is stale" for key in there - found.rows.keys()]
    return faults + unused(configs)


def sample(rows: Iterable[Row]) -> set[str]:
    """One key of each kernel, warps and stages: hashes, so that the choice moves with the code."""
    least: dict[tuple[Any, ...], str] = {}
    for row in rows:
        kind = row["kernel"], row["target"], row["warps"], row["stages"]
        least[kind] = min(least.get(kind, row["key"]), row["key"])
    return set(least.values())


def unused(configs: set[ConfigRow]) -> list[str]:
    return [f"no case uses {table}[{shape!r}, {target!r}]" for table, shape, target in tables().keys() - configs]


def refresh(path: Path, targets: Sequence[str], again: bool, console: Console) -> list[str]:
    """Compile what the table at ``path`` does not hold, or everything, and write it; returns the faults."""
    table, everything = read(path), cases()
    rows = {key: row for key, row in table.items() if row["target"] not in targets}
    faults: list[str] = []
    configs: set[ConfigRow] = set()
    for target in targets:
        found = survey(target, everything, {} if again else table)
        rows |= found.rows
        faults += found.faults
        configs |= found.configs
        console.print(f"{target}: {len(found.rows)} kernels, {len(found.compiled)} compiled")
    write(path, rows.values())
    path.with_suffix(".md").write_text(summary(rows.values()), encoding="utf-8")
    return faults + (unused(configs) if set(targets) == set(LIMITS) else [])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(LIMITS), help="default: all")
    parser.add_argument("--again", action="store_true", help="compile rows with a current key too")
    parser.add_argument("--check", action="store_true", help="compile the targets' kernels, compare; write nothing")
    parser.add_argument("--sample", action="store_true", help="with --check: only one of each kernel, warps and stages")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args(argv)
    console, targets = Console(stderr=True), options.target or list(LIMITS)
    if options.check:
        triton.knobs.compilation.always_compile = True  # what Triton's cache on disk holds proves nothing
        table = read(options.table)
        named = [row for row in table.values() if row["target"] in targets]
        again = sample(named) if options.sample else {row["key"] for row in named}
        faults = check(list(LIMITS), cases(), table, again)
    else:
        faults = refresh(options.table, targets, options.again, console)
    for problem in sorted(faults):
        print(problem)
    console.print(f"{len(read(options.table))} compiled kernels, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
