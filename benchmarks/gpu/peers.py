"""What an op of ours is timed against: its own torch path, a dense matrix product, FLA's delta rule, hqq's dequantize.

A peer that cannot run says why; the suite prints the reason instead of a figure.
"""

from __future__ import annotations

import importlib
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


def _same(*args: Any) -> Arguments:
    return args


@dataclass(frozen=True)
class Peer:
    """``prepare`` turns an op's arguments into the peer's, outside what is timed; ``package`` must be importable.

    A peer that copies to the host or allocates outside torch cannot be captured in a CUDA graph: ``captured`` is False
    then, and its time includes the gaps between its launches.
    """

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., Arguments] = _same
    package: str = ""
    captured: bool = True

    def missing(self) -> str:
        """Why the peer cannot run here; empty if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return ""


def torch_path(run: Callable[..., Any], captured: bool) -> Peer:
    """The op as it runs on a CPU, on the tensors' own device."""

    def patched(*args: Any) -> Any:
        with mock.patch.object(launch, "on_gpu", return_value=False):
            return run(*args)

    return Peer("torch", patched, captured=captured)


def _dense(x: Tensor, q: QuantizedMatrix, scratch: Tensor) -> Arguments:
    return x, dequantize(q, x.dtype)


def _dense_8(x: Tensor, w8: Tensor, w_scale: Tensor, group: int | None) -> Arguments:
    return x, (w8.float() * w_scale[:, None]).to(x.dtype)


def _fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Arguments:
    """In bf16, which it asks for, and with key heads repeated, as transformers calls it."""
    repeat, B = v.shape[2] // k.shape[2], len(v)
    q, k = (x.repeat_interleave(repeat, dim=2).bfloat16() for x in (q, k))
    return q, k, v.bfloat16(), g, beta.bfloat16(), state.expand(B, -1, -1, -1).contiguous()


def _run_fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Any:
    rule = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    return rule(q, k, v, g, beta, scale=1.0, initial_state=state, output_final_state=False)


def _hqq(q: QuantizedMatrix, dtype: torch.dtype, out: Tensor) -> Arguments:
    """hqq's own packing of a random matrix of the same shape; without its solver, which changes only the zeros."""
    from hqq.core.quantize import Quantizer

    weight = torch.randn(q.shape, device=q.codes.device)
    return Quantizer.quantize(
        weight, nbits=q.bits, group_size=q.group_size, optimize=False, axis=1,
        compute_dtype=dtype, device=str(q.codes.device),
    )  # fmt: skip


def _run_hqq(codes: Tensor, meta: dict[str, Any]) -> Tensor:
    from hqq.core.quantize import Quantizer

    return Quantizer.dequantize(codes, meta)


DENSE = Peer("F.linear bf16", F.linear, _dense)
DENSE_8 = Peer("F.linear bf16", F.linear, _dense_8)
FLA = Peer("fla", _run_fla, _fla, package="fla")
HQQ = Peer("hqq", _run_hqq, _hqq, package="hqq")
