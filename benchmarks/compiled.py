"""One compiled kernel: its key, what its binary says about registers and memory, and the bounds it is held to."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.tables import markdown
from slant_kernels.launch import cdiv, triton

Row = dict[str, Any]

KB = 1024
# Shared memory a block can have: CUDA's programming guide, "technical specifications per compute capability"; CDNA 3's
# local data share.
LIMITS = {
    "sm_75": 64 * KB,
    "sm_80": 163 * KB,
    "sm_86": 99 * KB,
    "sm_89": 99 * KB,
    "sm_90": 227 * KB,
    "sm_100": 227 * KB,
    "sm_120": 99 * KB,
    "gfx942": 64 * KB,
}
NO_MATRIX_UNITS = ("sm_75",)  # for Triton: a dot becomes multiply-adds
# Bytes a thread may keep in or move through local memory, by kernel and dtype, then target; 0 for all others. These
# are what Triton 3.9 makes of the code: a byte more is to be looked at.
SPILLS: dict[tuple[str, str], dict[str, int]] = {
    # Held to 168 registers, so that twelve of its single warps fit on a processor: measured to be faster.
    ("delta_rule_kernel.prepare", "bf16"): {"sm_90": 552},
    # fp32 in three products of TF32 takes three times the registers, with any number of warps. Only weights="fp32" on
    # a GPU comes here, which is for checks.
    ("delta_rule_kernel.prepare", "fp32"): {
        "sm_80": 8496, "sm_86": 8520, "sm_89": 8520, "sm_90": 5648, "sm_100": 5464, "sm_120": 5508,
    },
    ("delta_rule_kernel.serial", "fp32"): {
        "sm_80": 404, "sm_86": 300, "sm_89": 300, "sm_90": 500, "sm_100": 500, "sm_120": 516, "gfx942": 952,
    },
    # Three addresses, loaded again in each chunk; 8 warps spill none, and leave room for one program instead of two.
    ("delta_rule_kernel.serial", "bf16"): {"sm_120": 24},
    # Three registers, stored before the loop where K is split; two are loaded after it, and one in each step. 128
    # registers leave room for two programs.
    ("quantized_linear.quantized_linear", "bf16"): {"sm_80": 32},
}  # fmt: skip
MATRIX_UNITS = {"tcgen05": r"\bUTC\w*MMA", "wgmma": r"\b[HQIB]GMMA", "mma": r"\b[HQIB]MMA", "mfma": r"\bv_mfma"}
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def fingerprint(kernel: Any, compile: Mapping[str, Any], target: str) -> str:
    """The key of a kernel as Triton's ``jit_cache_hook`` announces it: all that the binary depends on.

    Triton's own key also depends on the line a kernel starts at and on where Triton is installed.
    """
    options = json.loads(compile["specialization_data"])["options"]
    options.pop("extern_libs", None)  # paths
    values = compile["constants"].items()
    constants = {path: "\n".join(sources(value)) if _is_kernel(value) else str(value) for path, value in values}
    parts = [triton.__version__, target, *sources(kernel), compile["signature"], constants, compile["configs"], options]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _is_kernel(value: Any) -> bool:
    return isinstance(value, triton.runtime.jit.JITCallable)


@lru_cache
def sources(kernel: Any) -> list[str]:
    """The code of a kernel and of all it calls, without comments and docstrings, and the global constants they name."""
    found: dict[str, str] = {}

    def visit(kernel: Any) -> None:
        name, tree = f"{kernel.__module__}.{kernel.__qualname__}", kernel.parse()
        if name in found or name.startswith("triton."):  # Triton's version stands for its own
            return
        body = tree.body[0].body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[:1] = [ast.Pass()] if len(body) == 1 else []
        found[name] = ast.unparse(tree)
        for node in ast.walk(tree):
            value = _resolve(node, kernel.__globals__)
            if _is_kernel(value):
                visit(value)
            elif isinstance(value, triton.language.constexpr):
                found[ast.unparse(node)] = repr(value.value)

    visit(kernel)
    return [f"{name}: {text}" for name, text in sorted(found.items())]


def _resolve(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """What a name or a module's attribute stands for; None if it is neither, or a local."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    return getattr(_resolve(node.value, names), node.attr, None) if isinstance(node, ast.Attribute) else None


def variant(key: str, kernel: Any, target: str) -> Row:
    """The row of a compiled kernel. Registers are a thread's; shared memory and local memory are in bytes."""
    fn, signature = kernel.src.fn, kernel.src.signature
    constants = ((fn.arg_names[path[0]], getattr(x, "__name__", x)) for path, x in kernel.src.constants.items())
    aligned = {fn.arg_names[path[0]] for path, attributes in kernel.src.attrs.items() if attributes}
    types = [f"{name} {kind}{':16' * (name in aligned)}" for name, kind in signature.items() if kind != "constexpr"]
    row = {
        "kernel": f"{fn.__module__.rpartition('.')[2]}.{fn.__name__.strip('_').removesuffix('_kernel')}",
        "target": target,
        "constants": " ".join(f"{name}={value}" for name, value in constants),
        "arguments": ", ".join(types),
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "dot": "tt.dot" in kernel.asm["ttir"],
        "shared": kernel.metadata.shared,
    }
    measured = _nvidia(kernel.asm["cubin"]) if "cubin" in kernel.asm else _amd(kernel.asm["amdgcn"])
    return row | measured | {"triton": triton.__version__, "key": key}


def _nvidia(cubin: bytes) -> Row:
    """Of the machine code: registers, stack frame, bytes of local loads and stores, the matrix unit."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, dump, file.name], capture_output=True, text=True, check=True).stdout
            for dump in ("--dump-resource-usage", "--dump-sass")
        )
    numbers = {name: int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK", "LOCAL")}
    local = re.findall(r"\b(?:LDL|STL)\b((?:\.\w+)*)", sass)
    moved = sum(next((WIDTHS[part] for part in suffix.split(".") if part in WIDTHS), 4) for suffix in local)
    stack = max(numbers["STACK"], numbers["LOCAL"])
    return {"registers": numbers["REG"], "stack": stack, "spill": moved, "matrix": _matrix(sass)}


def _amd(assembly: str) -> Row:
    """Of the assembly's metadata; a spilled register is 4 bytes a lane, and scalar ones spill into registers."""
    names = ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
    registers, stack, spilled = (int(re.findall(rf"\.{name}:\s*(\d+)", assembly)[-1]) for name in names)
    return {"registers": registers, "stack": stack, "spill": 4 * spilled, "matrix": _matrix(assembly)}


def _matrix(code: str) -> str:
    return next((unit for unit, pattern in MATRIX_UNITS.items() if re.search(pattern, code)), "")


def fault(row: Row) -> str:
    """What is wrong with a row; empty if nothing is."""
    name, target = row["kernel"], row["target"]
    first = row["arguments"].partition(",")[0]  # its dtype tells variants apart
    where = f"{name} on {target} ({first}, {row['constants']}, {row['warps']} warps)"
    if row["dot"] and target in NO_MATRIX_UNITS:
        return f"{where}: a matrix product where Triton has no matrix units"
    if row["shared"] > LIMITS[target]:
        return f"{where}: {row['shared']} bytes of shared memory, {LIMITS[target]} are there"
    allowed = SPILLS.get(_kind(row), {}).get(target, 0)
    if max(row["stack"], row["spill"]) > allowed:
        return f"{where}: a stack of {row['stack']} bytes and {row['spill']} bytes spilled, {allowed} allowed"
    if row["dot"] and not row["matrix"]:
        return f"{where}: a matrix product without a matrix instruction"
    return ""


def read(path: Path) -> dict[str, Row]:
    """The table by key; empty if there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Sorted by what a row is about, so that a change of one kernel changes its lines only."""
    about = ("kernel", "constants", "arguments", "warps", "stages")
    ordered = sorted(rows, key=lambda r: (*(r[name] for name in about), list(LIMITS).index(r["target"]), r["key"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")


def summary(rows: Iterable[Row]) -> str:
    """A Markdown table: for each kernel and target the most registers and shared memory of its variants."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(_kind(row), {target: [] for target in LIMITS})[row["target"]].append(row)
    body, kernels = [], [kernel for kernel, _ in found]
    for (kernel, dtype), by_target in sorted(found.items()):
        name = f"{kernel} {dtype}" if kernels.count(kernel) > 1 else kernel
        body.append([name, str(max(map(len, by_target.values()))), *map(_cell, by_target.values())])
    head = (
        "The most registers a thread and KB of shared memory a block of each kernel's variants, and its matrix units."
    )
    return f"{head}\n\n{markdown(['kernel', 'variants', *LIMITS], body)}\n"


def _kind(row: Row) -> tuple[str, str]:
    """The kernel and the dtype of its first argument: "bf16" of "p_q *bf16:16"."""
    return row["kernel"], row["arguments"].partition(",")[0].rpartition("*")[2].partition(":")[0]


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    registers, shared, spill = (max(row[name] for row in rows) for name in ("registers", "shared", "spill"))
    units = "/".join(sorted({row["matrix"] for row in rows} - {""}))
    return f"{registers}, {cdiv(shared, KB)}" + f", {spill} spilled" * (spill > 0) + f", {units}" * bool(units)
