"""The instruction set that CPU arithmetic uses in this process: the processor's best, unless a variable restricts it.

ONEDNN_MAX_CPU_ISA restricts oneDNN, ATEN_CPU_CAPABILITY restricts torch's own loops. slant keeps to the lower of the
two everywhere, so that with both set a newer machine stands in for an older one. The variables are read once.
"""

import os
import platform
from functools import cache

import torch

X86 = ("x86-64", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx")  # each includes those before it
_ATEN = {"DEFAULT": "x86-64", "AVX2": "avx2"}
_ONEDNN = {
    "sse41": "x86-64",
    "avx": "x86-64",
    "avx2": "avx2",
    "avx2_vnni": "avx2",
    "avx2_vnni_2": "avx2",
    "avx512_core": "avx512",
    "avx512_core_vnni": "avx512vnni",
    "avx512_core_bf16": "avx512bf16",
    "avx512_core_fp16": "avx512bf16",
    "avx10_1_512": "avx512bf16",
}


@cache
def instruction_set() -> str:
    """One of ``X86``, or "neon" on 64-bit ARM, else the name of the machine."""
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return "neon" if machine in ("aarch64", "arm64") else machine
    restriction = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    limits = _processor(), _ATEN.get(torch.backends.cpu.get_cpu_capability(), "amx"), _ONEDNN.get(restriction.lower())
    return min((limit for limit in limits if limit is not None), key=X86.index)


def _processor() -> str:
    """The best that the processor has, whatever the restrictions."""
    found = {
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512bf16": torch.cpu._is_avx512_bf16_supported(),
        "avx512vnni": torch.cpu._is_vnni_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "avx2": torch.cpu._is_avx2_supported(),
    }
    return next((name for name, there in found.items() if there), "x86-64")


def has(name: str) -> bool:
    """Whether the instruction set is ``name``, or includes it."""
    own = instruction_set()
    return own == name or (own in X86 and name in X86[: X86.index(own)])


def multiplies_bf16() -> bool:
    """Whether matrices of bf16 are multiplied natively; elsewhere fp32 is faster. Not known of ARM, so False there."""
    return has("avx512bf16")
