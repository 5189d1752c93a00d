"""What an op of ours is timed against: its own torch path, a dense matrix product, FLA's delta rule, hqq's dequantize.

A peer that cannot run says why; the suite prints the reason instead of a figure.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from slant_kernels import launch
from slant_kernels.quantized import QuantizedMatrix, dequantize

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Peer:
    """``prepare`` turns an op's arguments into the peer's, outside what is timed; ``package`` must be importable.

    A peer that copies to the host or allocates outside torch cannot be captured in a CUDA graph: ``captured`` is False
    then, and its time includes the gaps between its launches.
    """

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., Arguments] = lambda *arguments: arguments
    package: str = ""
    captured: bool = True

    def missing(self) -> str:
        """Why the peer cannot run here; empty if it can."""
        there = not self.package or importlib.util.find_spec(self.package)
        return "" if there else f"{self.package} is not installed"


def torch_path(run: Callable[..., Any], captured: bool) -> Peer:
    """The op as it runs on a CPU, on the tensors' own device."""

    def patched(*args: Any) -> Any:
        with mock.patch.object(launch, "on_gpu", return_value=False):
            return run(*args)

    return Peer("torch", patched, captured=captured)


def _fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Arguments:
    """In bf16, which it asks for, and with key heads repeated, as transformers calls it."""
    repeat, B = v.shape[2] // k.shape[2], len(v)
    q, k = (x.repeat_interleave(repeat, dim=2).bfloat16() for x in (q, k))
    return q, k, v.bfloat16(), g, beta.bfloat16(), state.expand(B, -1, -1, -1).contiguous()


def _run_fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Any:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return chunk_gated_delta_rule(q, k, v, g, beta, scale=1.0, initial_state=state, output_final_state=False)


def _hqq(q: QuantizedMatrix, dtype: torch.dtype, out: Tensor) -> Arguments:
    """hqq's own packing of a random matrix of the same shape; without its solver, which changes only the zeros."""
    from hqq.core.quantize import Quantizer

    weight, device = torch.randn(q.shape, device=q.codes.device), str(q.codes.device)
    options = {"nbits": q.bits, "group_size": q.group_size, "optimize": False, "axis": 1}
    return Quantizer.quantize(weight, **options, compute_dtype=dtype, device=device)


def _run_hqq(codes: Tensor, meta: dict[str, Any]) -> Tensor:
    from hqq.core.quantize import Quantizer

    return Quantizer.dequantize(codes, meta)


DENSE = Peer("F.linear bf16", F.linear, lambda x, q, scratch: (x, dequantize(q, x.dtype)))
DENSE_8 = Peer("F.linear bf16", F.linear, lambda x, q: (x, (q.codes.float() * q.scales[:, None]).to(x.dtype)))
FLA = Peer("fla", _run_fla, _fla, package="fla")
HQQ = Peer("hqq", _run_hqq, _hqq, package="hqq")
