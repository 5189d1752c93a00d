"""What the card reaches in this run beside the ceilings of ``Limits``: 8-bit products, copies from the host, launches.

Each is a row of its own, so that one that fails takes no other with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch

from gpu.device import DryRun, Limits, turns
from harness.rows import Row
from slant_kernels.fp8 import E4M3
from slant_kernels.norm import rms_norm

SIDE = 8192
COPIED = 1 << 28  # bytes
LAUNCHES = 200


def rates(device: DryRun, limits: Limits, side: int = SIDE, copied: int = COPIED) -> Iterator[Row]:
    """Rows with ``rate``, ``value`` and ``unit``; one that failed has ``failure`` in place of a value."""
    yield {"rate": "an elementwise kernel, bytes read and written", "value": limits.bytes_per_s, "unit": "B/s"}
    yield {"rate": "bf16 product", "value": limits.flops_per_s, "unit": "FLOP/s"}
    found: dict[str, tuple[str, Callable[[], float]]] = {
        "int8 product": ("FLOP/s", lambda: 2 * side**3 / _product(device, torch.int8, side)),
        "e4m3 product, scales by rows": ("FLOP/s", lambda: 2 * side**3 / _product(device, E4M3, side)),
        "e4m3 product, fast sums": ("FLOP/s", lambda: 2 * side**3 / _product(device, E4M3, side, fast=True)),
        "copy from page-locked memory": ("B/s", lambda: copied / _upload(device, copied)),
        "launch of one kernel from Python": ("s", lambda: _launch(device)),
    }
    for rate, (unit, measure) in found.items():
        try:
            yield {"rate": rate, "value": measure(), "unit": unit}
        except Exception as error:  # an old card, or a library that lacks the product
            yield {"rate": rate, "unit": unit, "failure": f"{type(error).__name__}: {error}"[:300]}


def _product(device: DryRun, dtype: torch.dtype, side: int, fast: bool = False) -> float:
    """Seconds of a product of two 8-bit matrices; ``fast``: with sums of e4m3 that are not promoted to fp32."""
    x, w = ((32 * torch.randn(side, side, device=device.place)).clamp(-127, 127).to(dtype) for _ in range(2))
    scales = torch.rand(side, 1, device=device.place)

    def multiply() -> torch.Tensor:
        if dtype == torch.int8:
            return torch._int_mm(x, w.T)
        return torch._scaled_mm(x, w.T, scales, scales.T, out_dtype=torch.bfloat16, use_fast_accum=fast)

    return median(turns({"": device.loop(multiply, [()], captured=True)}, seconds=0.3)[""])


def _upload(device: DryRun, size: int) -> float:
    source = torch.randint(256, (size,), dtype=torch.uint8)
    source = source.pin_memory() if device.place.type == "cuda" else source
    place = torch.empty_like(source, device=device.place)
    return median(device.seconds(lambda: place.copy_(source, non_blocking=True)) for _ in range(5))


def _launch(device: DryRun) -> float:
    """Seconds of the host for one launch: many small ones that the device outruns."""
    x = torch.randn(1, 1, 64, dtype=torch.bfloat16, device=device.place)
    weight = torch.ones(64, device=device.place)

    def launches() -> None:
        for _ in range(LAUNCHES):
            rms_norm(x, weight, 1e-6)

    launches()
    return median(device.seconds(launches) for _ in range(5)) / LAUNCHES
