"""Compile kernels ahead of time, for the GPU at hand or for another target, and forbid compilation afterwards.

    with compiling("sm_90") as kernels:
        rms_norm(torch.empty(64, 2560, dtype=torch.bfloat16, device="meta"), ...)

Ops run on ``meta`` tensors as they would on the GPU: the same wrappers choose the same configurations and arguments,
so what is compiled is what would be launched, under the same key in Triton's cache on disk. The address of a slice of a
meta tensor is its offset, so it has the alignment that it would have in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from slant_kernels import launch
from slant_kernels.launch import triton

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
"""The GPU architectures that kernels are written for."""


class KernelMissing(RuntimeError):
    """A kernel needs compilation where that is forbidden."""


class TargetDriver:
    """Replaces Triton's CUDA or HIP driver, and knows nothing but the target."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        cuda = target.startswith("sm_")
        self.name = target
        self.target = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


@contextmanager
def compiling(target: str) -> Iterator[list[Any]]:
    """Within it, launches on ``meta`` tensors compile for ``target``, like "sm_90" or "gfx942".

    Yields a list to which Triton's CompiledKernel objects are added: ``name``, ``metadata``, ``asm``. Raises Triton's
    own errors if a kernel does not compile. TRITON_INTERPRET must not be set.
    """
    config = triton.runtime.driver
    before = config._active  # the property would create the real driver, which needs a GPU
    config.set_active(TargetDriver(target))
    try:
        with collecting() as kernels:
            yield kernels
    finally:
        config._active = before


@contextmanager
def collecting(progress: Callable[[int], None] = lambda count: None) -> Iterator[list[Any]]:
    """Collects the kernels of launches on ``meta`` tensors, each once; ``progress`` is called with their number.

    Outside of ``compiling`` they are compiled for the GPU at hand, whose launches find them.
    """
    kernels: list[Any] = []
    known: set[int] = set()

    def keep(kernel: Any) -> None:
        if kernel is not None and id(kernel) not in known:
            known.add(id(kernel))
            kernels.append(kernel)
            progress(len(kernels))

    with _following(keep):
        yield kernels


@contextmanager
def rehearsing() -> Iterator[list[str]]:
    """Within it launches on ``meta`` tensors compile nothing; the list names the kernel of each, in order."""
    names: list[str] = []

    def name(*, key: str, fn: Any, **_: Any) -> bool:
        names.append(f"{fn.name} {key}")
        return True

    def name_known(kernel: Any) -> None:
        if kernel is not None:  # compiled earlier, so that Triton did not ask
            names.append(kernel.hash)

    with hooked(name), _following(name_known):
        yield names


@contextmanager
def no_compilation() -> Iterator[None]:
    """Within it a kernel that this process has not compiled yet raises KernelMissing, on a GPU as on meta tensors.

    It holds for all threads of the process, and for kernels that Triton would only read from its cache on disk, which
    takes milliseconds too. Launches of known kernels take no longer.
    """

    def refuse(*, fn: Any, compile: Mapping[str, Any], **_: Any) -> bool:
        raise KernelMissing(_difference(fn.jit_function, compile))

    with hooked(refuse):
        yield


@contextmanager
def hooked(hook: Callable[..., bool]) -> Iterator[None]:
    """Triton calls ``hook`` for a kernel that this process has not compiled; True keeps it from compiling."""
    knobs = triton.knobs.runtime
    before, knobs.jit_cache_hook = knobs.jit_cache_hook, hook
    try:
        yield
    finally:
        knobs.jit_cache_hook = before


@contextmanager
def _following(follow: Callable[[Any], None]) -> Iterator[None]:
    launch.followers.append(follow)
    try:
        yield
    finally:
        launch.followers.remove(follow)


def _difference(fn: Any, compile: Mapping[str, Any]) -> str:
    """A sentence: which kernel, and how its arguments differ from the most similar compiled one."""
    options = {"num_warps": compile["num_warps"], "num_stages": compile["num_stages"]}
    asked = options | _arguments(compile["signature"], compile["constants"], compile["configs"][0])
    others: list[list[str]] = []
    for kernel in fn.device_caches[triton.runtime.driver.active.get_current_device()][0].values():
        options = {"num_warps": kernel.metadata.num_warps, "num_stages": kernel.metadata.num_stages}
        known = options | _arguments(kernel.src.signature, kernel.src.constants, kernel.src.attrs)
        others.append([f"{name}={value}, not {known[name]}" for name, value in asked.items() if known[name] != value])
    name = f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"
    if not others:
        return f"the kernel {name} is not compiled for any arguments"
    return f"the kernel {name} is not compiled for {'; '.join(sorted(others, key=len)[0])}"


def _arguments(signature: Mapping[str, str], constants: Mapping[Any, Any], attributes: Mapping[Any, Any]) -> dict:
    """By name: a constant's value, or a type and what the kernel is specialized for."""
    found = {}
    for index, (name, kind) in enumerate(signature.items()):
        known = " ".join(f"{what}:{value}" for what, value in attributes.get((index,), []))
        found[name] = constants[index,] if kind == "constexpr" else f"{kind} {known}".rstrip()
    return found
