"""Compiles every kernel for every GPU it is meant for, without one, and keeps what the compilers said.

The cases of ``gpu/kernel_cases.py`` run on meta tensors, so that what is compiled is what the wrappers would launch on
that GPU. One row of ``results/compiled_kernels.jsonl`` is one compiled kernel; its key is a hash of all that the binary
depends on, so that a row whose key is current need not be compiled again. Every row is held to the target's shared
memory, to no spills and to matrix units where it multiplies matrices, and every committed configuration must be in use.

    python benchmarks/compile_kernels.py                            compile what is new, write the table
    python benchmarks/compile_kernels.py --again --target sm_90     compile sm_90's rows again too
    python benchmarks/compile_kernels.py --check --target sm_90     write nothing; compile sm_90, compare with the table
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from compiled import LIMITS, Row, fault, fingerprint, read, summary, variant, write
from gpu.case import Case
from gpu.kernel_cases import cases
from gpu.tune import lookups, named_tables
from harness.rows import RESULTS
from slant_kernels.cross import compiling, hooked
from slant_kernels.launch import Config, triton

TABLE = RESULTS / "compiled_kernels.jsonl"

ConfigRow = tuple[str, str, str]
"""A committed configuration: its table like "norm.ROW", shape class, target."""


class Survey(NamedTuple):
    """A row for each kernel by its key, the configurations in use, and what went wrong."""

    rows: dict[str, Row]
    configs: set[ConfigRow]
    faults: list[str]


def survey(target: str, cases: Sequence[Case], known: Mapping[str, Row]) -> Survey:
    """Run the cases for a target; kernels with a key in ``known`` are taken from there and not compiled.

    A kernel can be compiled once a process and target: Triton keeps it, and does not announce it again.
    """
    rows, waiting, failed = dict[str, Row](), list[str](), defaultdict[str, list[str]](list)

    def hook(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        """Called by Triton for a kernel that this process has not compiled; True keeps it from compiling."""
        key = fingerprint(fn.jit_function, compile, target)
        if key in known:
            rows[key] = known[key]
        if key in rows or key in waiting:
            return True
        waiting.append(key)
        return False

    with compiling(target) as kernels, lookups() as seen, hooked(hook):
        for case in (case for case in cases if case.compiled and case.runs_on(target)):
            try:
                case.run(*case.make(torch.device("meta")))
            except Exception as error:  # whatever a compiler throws is a finding about this case
                reason = (str(error).strip().splitlines() or [""])[-1]
                failed[f"{case.op} on {target}: {type(error).__name__}: {reason}"].append(case.label)
            rows |= {key: variant(key, kernel, target) for key, kernel in zip(waiting, kernels, strict=False)}
            waiting.clear()
            kernels.clear()
    faults = [f"{reason} ({', '.join(labels)})" for reason, labels in failed.items()]
    faults += [problem for row in rows.values() if (problem := fault(row))]
    committed, configs = tables(), set()
    for (table, shape_class), config in seen.items():
        own = table, shape_class, target
        configs.add(own if committed.get(own) is config else (table, shape_class, ""))
    return Survey(rows, configs & committed.keys(), faults)


def tables() -> dict[ConfigRow, Config]:
    """Every committed configuration."""
    return {(where, *key): config for where, table in named_tables().items() for key, config in table.rows.items()}


def survey_all(
    targets: Iterable[str], cases: Sequence[Case], table: Mapping[str, Row], again: Collection[str] = ()
) -> Survey:
    """The targets together; rows of the table with a key in ``again`` are compiled anew. All configurations count."""
    known = {key: row for key, row in table.items() if key not in again}
    found = [survey(target, cases, known) for target in targets]
    configs = set().union(*(one.configs for one in found))
    rows = {key: row for one in found for key, row in one.rows.items()}
    return Survey(rows, configs, [fault for one in found for fault in one.faults] + unused(configs))


def differences(table: Mapping[str, Row], rows: Mapping[str, Row]) -> list[str]:
    """What a table says otherwise than what was compiled: missing, wrong or stale."""
    faults = []
    for key, row in rows.items():
        name = f"{row['kernel']} on {row['target']} ({row['constants']})"
        if key not in table:
            faults.append(f"{name} is not in the table; run benchmarks/compile_kernels.py")
        elif row != table[key]:
            said = {column: (table[key].get(column), value) for column, value in row.items()}
            wrong = {column: pair for column, pair in said.items() if pair[0] != pair[1]}
            faults.append(f"{name} is not what the table says (table, compiled): {wrong}")
    stale = (table[key] for key in table.keys() - rows.keys())
    return faults + [f"a row of {row['kernel']} on {row['target']} is stale" for row in stale]


def check(
    targets: Iterable[str], cases: Sequence[Case], table: Mapping[str, Row], again: Collection[str] = ()
) -> list[str]:
    """What is wrong with the kernels, and with the table of them; see ``survey_all``."""
    found = survey_all(targets, cases, table, again)
    return found.faults + differences(table, found.rows)


def sample(rows: Iterable[Row]) -> set[str]:
    """One key of each kernel, target, warps and stages: hashes, so that the choice moves with the code."""
    ordered = sorted(rows, key=lambda row: row["key"], reverse=True)
    return set({(row["kernel"], row["target"], row["warps"], row["stages"]): row["key"] for row in ordered}.values())


def unused(configs: set[ConfigRow]) -> list[str]:
    return [f"no case uses {table}[{shape!r}, {target!r}]" for table, shape, target in tables().keys() - configs]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(LIMITS), help="what is compiled again; default: all")
    parser.add_argument("--again", action="store_true", help="compile rows with a current key too")
    parser.add_argument("--check", action="store_true", help="compile the targets' kernels, compare; write nothing")
    parser.add_argument("--sample", action="store_true", help="with --check: only one of each kernel, warps and stages")
    options = parser.parse_args(argv)
    triton.knobs.compilation.always_compile = options.check  # what Triton's cache on disk holds proves nothing
    table = read(TABLE)
    named = [row for row in table.values() if row["target"] in (options.target or LIMITS)]
    again = {row["key"] for row in named} if options.again or options.check else set()
    if options.check:
        faults = check(LIMITS, cases(), table, sample(named) if options.sample else again)
    else:
        found = survey_all(LIMITS, cases(), table, again)
        table, faults = found.rows, found.faults
        write(TABLE, table.values())
        TABLE.with_suffix(".md").write_text(summary(table.values()), encoding="utf-8")
    print(*sorted(faults), f"{len(table)} compiled kernels, {len(faults)} faults", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
