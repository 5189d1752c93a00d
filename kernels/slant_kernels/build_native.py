"""Compile the CPU ops written in C++: ``python -m slant_kernels.build_native``, or when slant is installed.

One library for each instruction set in ``LEVELS``, beside the sources; ``native`` picks the best that the processor
supports. Without a compiler there is none, and the ops run on torch. Only Python's standard library is imported here,
because an installer has nothing else.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEADERS = ("integers.h", "vectors.h")
SOURCES = (
    "attention.cpp",
    "delta_net.cpp",
    "int8.cpp",
    "norm.cpp",
    "packing.cpp",
    "panels.cpp",
    "read.cpp",
    "swiglu.cpp",
    "w4a8.cpp",
)
FLAGS = (
    "-O3",
    "-std=c++17",
    "-fopenmp",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-fno-exceptions",
    "-shared",
    "-fPIC",
)
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512bf16": ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
        "avx512vnni": ("-march=x86-64-v4", "-mavx512vnni"),
        "avx512": ("-march=x86-64-v4",),
        "avx2": ("-march=x86-64-v3",),
    },
    "aarch64": {"neon": ()},
}


def library(level: str) -> Path:
    """The library of an instruction set; a hash of the sources in its name keeps an outdated one from being called."""
    sources = b"".join((HERE / name).read_bytes() for name in (*HEADERS, *SOURCES))
    return HERE / f"native.{level}.{hashlib.sha256(sources).hexdigest()[:8]}.so"


def build() -> dict[str, str]:
    """Compile for all instruction sets of this machine's kind with the C++ compiler ($CXX, else c++).

    Replaces older libraries. Returns the reason for each instruction set that failed to compile.
    """
    failed = {}
    for level, flags in LEVELS.get(platform.machine(), {}).items():
        target = library(level)
        partial = target.with_suffix(f".{os.getpid()}")
        command = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *flags, *(str(HERE / name) for name in SOURCES)]
        for old in HERE.glob(f"native.{level}.*.so"):
            old.unlink()
        try:
            done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, check=False)
            if done.returncode:
                failed[level] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            else:
                partial.replace(target)
        except OSError as error:
            failed[level] = f"{command[0]}: {error.strerror}"
        finally:
            partial.unlink(missing_ok=True)
    return failed


def main() -> None:
    failed = build()
    for level, why in failed.items():
        print(f"slant: the CPU ops for {level} were not compiled and run on torch: {why}", file=sys.stderr)
    built = [level for level in LEVELS.get(platform.machine(), {}) if level not in failed]
    print("compiled for " + ", ".join(built) if built else "nothing was compiled")


if __name__ == "__main__":
    main()
