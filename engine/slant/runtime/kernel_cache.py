"""A folder of compiled kernels: Triton's cache on disk, filled ahead on a machine that needs no GPU.

A process finds them when TRITON_CACHE_DIR names the folder. Triton looks a kernel up by a hash of its code, its
arguments, the GPU's architecture, the compiler and all of Triton: with another version of slant or Triton a kernel is
compiled again, never used by mistake. An index beside each kernel names its files by their whole paths, so a folder
that moved holds nothing until ``settle`` writes the paths anew.

One piece cannot be made without a GPU's driver: the module through which Triton loads and launches kernels. Triton
builds it with a C compiler when it first finds a GPU, keeps it in the same folder, and before version 3.9 adds a small
launcher for each signature of a kernel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slant.artifact.recipe import W4A8
from slant.errors import SlantError, reason
from slant.files import write_whole
from slant.runtime.memory import MemoryRequest
from slant.runtime.resolved import FP8, INT8
from slant.runtime.warmup import compile_kernels
from slant_kernels.cross import TARGETS, TargetDriver, compiling
from slant_kernels.fp8 import multiplies_fp8
from slant_kernels.launch import triton


@dataclass(frozen=True)
class Kernels:
    """The variants of one kernel: how many, how many of them were not in the folder before, bytes of machine code."""

    name: str
    variants: int
    compiled: int
    nbytes: int


def fill(folder: Path, target: str, request: MemoryRequest, progress: Callable[[int, int], None]) -> list[Kernels]:
    """Compile what ``request`` asks for into the folder; ``progress`` is called with (kernels done, all).

    Kernels that the folder holds are read from it. Raises SlantError for a target that there is no compiler for.
    """
    check(target)
    new: set[str] = set()
    with _cache(folder, new), compiling(target):
        kernels = compile_kernels(request, progress=progress)
    names = [kernel.name.strip("_").removesuffix("_kernel") for kernel in kernels]
    groups = {name: [kernel for kernel, own in zip(kernels, names, strict=True) if own == name] for name in names}
    return [
        Kernels(name, len(group), sum(k.hash in new for k in group), sum(len(k.kernel) for k in group))
        for name, group in sorted(groups.items())
    ]


def check(target: str, weights: str = "auto") -> None:
    """Raise SlantError unless kernels can be compiled for the target here, and it multiplies such weights."""
    if triton is None:
        raise SlantError("kernels are compiled by Triton, which exists for Linux only.")
    if triton.knobs.runtime.interpret:
        raise SlantError("TRITON_INTERPRET is set, with which kernels are not compiled; unset it.")
    if target not in TARGETS:
        raise SlantError(f"{target!r} is no known target; give one of {', '.join(TARGETS)}.")
    if weights in (INT8, W4A8) or (weights == FP8 and not multiplies_fp8(target)):
        raise SlantError(f"the weights {weights} are not for {target}; leave weights at auto.")
    try:
        triton.compiler.make_backend(TargetDriver(target).target).hash()
    except (RuntimeError, OSError, ValueError) as error:  # whatever it says of a tool that is missing or does not run
        raise SlantError(f"Triton has no compiler for {target} here: {error}.") from None


def settle(folder: Path, home: Path) -> None:
    """Write the folder's indices for the path ``home``, where it is or will be.

    Raises SlantError for an index, or a description of a kernel, that is damaged.
    """
    for path in folder.glob("*/*.json"):
        try:
            found = json.loads(path.read_bytes())
            names = list(found["child_paths"]) if path.name.startswith("__grp__") else None
        except (ValueError, LookupError, TypeError) as error:
            raise SlantError(f"{path} is damaged ({reason(error)}); delete {path.parent} and compile again.") from None
        if names is not None:
            paths = {name: str(home / path.parent.name / name) for name in names}
            write_whole(path, json.dumps({"child_paths": paths}).encode())


@contextmanager
def _cache(folder: Path, new: set[str]) -> Iterator[None]:
    """Triton keeps kernels in the folder, machine code and no text; ``new`` fills with the hashes of those it adds."""

    def note(*, metadata: dict[str, object], cache_hit: bool, **_: object) -> None:
        if not cache_hit:
            new.add(str(metadata["hash"]))

    cache, compilation = triton.knobs.cache, triton.knobs.compilation
    with cache.scope(), compilation.scope():
        cache.dir, compilation.store_binary_only, compilation.listener = str(folder), True, note
        yield
