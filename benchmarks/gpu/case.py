"""One op at one shape: its arguments, the bytes and FLOPs it cannot do without, what it competes with.

A case is made for the device "meta", where its kernels compile, or for a GPU, where they are timed. Inputs are random,
never zeros: zeros hide outputs that nobody wrote, and can run faster than data does.

``bytes`` counts each input once, as far as the op needs it, and each output once. ``flops`` counts what matrix units
do, two for a multiply and an add; the elementwise ops have 0, because their bytes take longer on any GPU. Both are
lower bounds: the time over the larger of bytes / bandwidth and flops / rate is the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpu.peers import Arguments, Peer, torch_path
from slant_kernels.quantized import QuantizedMatrix, layout

BF16, FP32 = torch.bfloat16, torch.float32
ON_THE_HOST = ("delta_inputs", "delta_rule", "delta_net", "last_attention")  # torch paths that read or copy host memory


@dataclass(frozen=True)
class Case:
    """One op at one shape. ``make`` draws its arguments on a device; ``run`` calls it with them."""

    op: str
    label: str
    make: Callable[[torch.device], Arguments]
    run: Callable[..., Any]
    bytes: int
    flops: int = 0
    peers: tuple[Peer, ...] = ()
    uncounted: int = 0  # bytes of its tensors that ``bytes`` leaves out
    timed: bool = True  # for False it is only compiled
    compiled: bool = True  # for False it is only timed: another case compiles the same code
    targets: tuple[str, ...] = ()  # the only ones that it can run on; empty for all

    def runs_on(self, target: str) -> bool:
        return not self.targets or target in self.targets


@dataclass(frozen=True)
class Draw:
    """Random tensors on a device."""

    device: torch.device

    def normal(self, *shape: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device)

    def full(self, count: int, value: int) -> Tensor:
        return torch.full((count,), value, device=self.device)

    def quantized(self, shape: tuple[int, int], bits: int, group_size: int) -> QuantizedMatrix:
        """Random codes, and scales and zeros of an ordinary size."""
        codes, groups = layout(shape, bits, group_size)
        zeros = self.normal(*groups, dtype=torch.float16)
        values = torch.randint(256, codes, dtype=torch.uint8, device=self.device)
        scales = (0.01 + 0.01 * self.uniform(*groups)).half()
        return QuantizedMatrix(values, scales, zeros, bits, group_size, shape)


def case(
    run: Callable[..., Any],
    label: str,
    size: int,
    make: Callable[[Draw], Arguments],
    flops: int = 0,
    peers: tuple[Peer, ...] = (),
    *,
    beside_torch: bool = True,
    **rest: Any,
) -> Case:
    """The case of an op, which is called as its function is; its first peer is its own torch path."""
    op = run.__name__
    own = (torch_path(run, captured=op not in ON_THE_HOST),) if beside_torch else ()
    return Case(op, label, lambda device: make(Draw(device)), run, size, flops, (*own, *peers), **rest)
