"""Settings of torch that hold for the whole process and change numbers: as slant needs them while it computes.

Of the program's own only those are touched that would round products or choose another library for them. Whatever
matters in one thread only, or can be named where a tensor is made, is not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    """How a setting is read and written, and the values that it may have; the first of them is set."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    fine: tuple[Any, ...]


def _precision(of: Any) -> Setting:
    return Setting(lambda: of.fp32_precision, lambda value: setattr(of, "fp32_precision", value), ("ieee", "none"))


SETTINGS = (
    # set_float32_matmul_precision: "bf16" or "tf32" would round fp32 matrices
    _precision(torch.backends.mkldnn.matmul),  # type: ignore[attr-defined]
    _precision(torch.backends.cuda.matmul),
    Setting(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, (True,)),
    Setting(torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, (True,)),
    Setting(torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp, (True,)),
    Setting(torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp, (True,)),
    Setting(torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, (True,)),
)


class _Users:
    """How many threads compute; the first one changes settings, the last one gives the program its own back."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._programs: list[tuple[Setting, Any]] = []

    def enter(self) -> None:
        with self._lock:
            self._count += 1
            for setting in SETTINGS if self._count == 1 else ():
                if (value := setting.read()) not in setting.fine:
                    self._programs.append((setting, value))
                    setting.write(setting.fine[0])

    def leave(self) -> None:
        with self._lock:
            self._count -= 1
            while self._programs and not self._count:
                setting, value = self._programs.pop()
                setting.write(value)


_users = _Users()  # none of them at a fork, which waits for whoever computes


@contextmanager
def own_settings() -> Iterator[None]:
    """Within it the settings are slant's, afterwards again the program's."""
    _users.enter()
    try:
        yield
    finally:
        _users.leave()
