"""Compiling kernels for a GPU that is not there.

    with compiling("sm_90") as kernels:
        rms_norm(torch.empty(64, 2560, dtype=torch.bfloat16, device="meta"), ...)

Ops run on ``meta`` tensors as they would on the GPU: the same wrappers pick the same configurations and arguments, so
that what is compiled is what would be launched, and Triton's cache on disk holds it under the same key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slant_kernels.launch import triton


class TargetDriver:
    """Stands in for Triton's CUDA or HIP driver: names the target, and keeps what was compiled for it."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        cuda = target.startswith("sm_")
        self.name = target
        self.target = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
        self.kernels: list[Any] = []

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target

    def keep(self, kernel: Any) -> None:
        """Called by ``launch`` for each launch; a kernel that was launched before comes again."""
        if all(kernel is not kept for kept in self.kernels):
            self.kernels.append(kernel)


@contextmanager
def compiling(target: str) -> Iterator[list[Any]]:
    """Within it, launches on ``meta`` tensors compile for ``target``, like "sm_90" or "gfx942".

    Yields the list that fills with Triton's CompiledKernel objects: ``name``, ``metadata``, ``asm``. It fails with
    Triton's own errors if a kernel does not compile. TRITON_INTERPRET must not be set.
    """
    config, driver = triton.runtime.driver, TargetDriver(target)
    before = config._active  # the property would create the real driver, which needs a GPU
    config.set_active(driver)
    try:
        yield driver.kernels
    finally:
        config._active = before
