"""One op at one shape: its arguments, the bytes and FLOPs it cannot do without, and what it competes with.

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

BF16, FP32, FP16 = torch.bfloat16, torch.float32, torch.float16
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


def beside_torch(
    op: str, run: Callable[..., Any], label: str, make: Callable[..., Arguments], size: int, **rest: Any
) -> Case:
    """A case whose first peer is the op's own torch path."""
    peers = torch_path(run, captured=op not in ON_THE_HOST), *rest.pop("peers", ())
    return Case(op, label, make, run, size, peers=peers, **rest)


def label(B: int, T: int, dtype: torch.dtype = BF16) -> str:
    return f"{B} x {T}" + " fp32" * (dtype == FP32)


def randn(device: torch.device, *shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=device)


def rand(device: torch.device, *shape: int) -> Tensor:
    return torch.rand(*shape, device=device)
