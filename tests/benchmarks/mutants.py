"""Kernels and tables with one fault each, for test_compile_kernels.py, which runs this in a process of its own.

Prints what is said of each, as JSON by name.
"""

import json

import torch

import compiled
from compile_kernels import TABLE, check, survey
from gpu.case import Case
from gpu.kernel_cases import cases
from slant_kernels.launch import Config, jit, launch, tl


@jit()
def add_one(x):
    # A comment is not code.
    return x + 1


@jit()
def _held_kernel(p_x, p_y, BM: tl.constexpr):
    """Two passes over a block that must stay in registers between them."""
    o_m = tl.arange(0, BM)
    x = tl.load(p_x + o_m)
    tl.store(p_y + o_m, add_one(x) - tl.sum(x))


@jit()
def _product_kernel(p_x, p_y, BM: tl.constexpr, BK: tl.constexpr, STEPS: tl.constexpr):
    o_m, o_k = tl.arange(0, BM), tl.arange(0, BK)
    acc = tl.zeros((BM, BM), tl.float32)
    for i in range(STEPS):
        x = tl.load(p_x + o_m[:, None] * STEPS * BK + o_k[None] + i * BK)
        acc = tl.dot(x, tl.trans(x), acc)
    tl.store(p_y + o_m[:, None] * BM + o_m[None], acc.to(tl.bfloat16))


def case(kernel, config, **constants):
    def run(x):
        launch(kernel, (1,), config, x, torch.empty_like(x), **constants)

    return Case(
        kernel.__name__, "", lambda device: (torch.empty(1 << 20, dtype=torch.bfloat16, device=device),), run, 0
    )


def product(rows=64, depth=64, **options):
    return case(_product_kernel, Config({"BM": rows, "BK": depth}, **options), STEPS=8)


def wrong(target, change, keep=False, again=False):
    """What a check says of the table of one kernel when its row is changed, or ``keep`` has it in the table as well."""
    row = next(r for r in compiled.read(TABLE).values() if (r["kernel"], r["target"]) == ("swiglu.swiglu", target))
    changed = row | change
    table = {changed["key"]: changed} | ({row["key"]: row} if keep else {})
    swiglu = [case for case in cases() if case.op == "swiglu"]
    said = check([target], swiglu, table, table if again else ())
    return [fault for fault in said if not fault.startswith("no case uses")]


if __name__ == "__main__":
    large = product(128, 128, num_stages=6)
    found = {
        "sound": survey("sm_90", [product()], {}),
        "other blocks": survey("sm_90", [product(32)], {}),
        "other warps": survey("sm_90", [product(num_warps=8)], {}),
        "shared": survey("sm_86", [large], {}),
        "shared elsewhere": survey("sm_90", [large], {}),
        "spills": survey("sm_90", [case(_held_kernel, Config({"BM": 16384}, num_warps=1))], {}),
        "no matrix unit": survey("sm_75", [product(16, 16)], {}),
        "does not compile": survey("sm_90", [product(64, 48)], {}),
    }
    tables = {
        "right": wrong("sm_90", {}),
        "registers, from the table": wrong("sm_90", {"registers": 1}),
        "shared": wrong("sm_90", {"shared": 1 << 20}),
        "spill": wrong("sm_90", {"spill": 4}),
        "missing": wrong("sm_80", {"key": "invented"}),
        "registers": wrong("sm_90", {"registers": 1}, again=True),
        "stale": wrong("sm_86", {"key": "invented"}, keep=True),
    }
    faults = {name: one.faults for name, one in found.items()}
    rows = [row for one in found.values() for row in one.rows.values()]
    print(json.dumps({"faults": faults, "rows": rows, "tables": tables, "sources": compiled.sources(_held_kernel)}))
