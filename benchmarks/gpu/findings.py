"""What a check of correctness finds: an error beside its bound; and how ours and the references are computed.

A bound is what rounding makes, never a guess: twice what the reference errs when it is rounded to the result's dtype,
or twice what the op's torch path errs, in norm; and the same of the worst element, which one wrong value moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from gpu.device import DryRun, Gpu
from slant_kernels import launch, native

# What sums of fp32 in another order differ by, of the norm and of the largest element.
FP32, FP32_WORST = 1e-5, 1e-4


class Finding(NamedTuple):
    """Right if the error is at most the bound; ``check`` names it where one check finds several things."""

    error: float
    bound: float
    note: str = ""
    check: str = ""

    @property
    def right(self) -> bool:
        return self.error <= self.bound  # not for NaN

    @property
    def share(self) -> float:
        share = self.error / self.bound if self.bound else math.inf if self.error else 0.0
        return math.inf if math.isnan(share) else share


@dataclass(frozen=True)
class Check:
    """``run`` yields what it finds; whatever it raises is a failure of this check alone."""

    name: str
    shape: str
    dtype: str
    run: Callable[[], Iterable[Finding]]


def worst(findings: Iterable[Finding]) -> list[Finding]:
    """The one that is nearest to its bound, or beyond it by most."""
    return [max(findings, key=lambda finding: finding.share)]


def compared(
    outs: Sequence[Tensor],
    expected: Sequence[Tensor],
    others: Sequence[Tensor | None] = (),
    factor: float = 2,
    least: float = 0.0,
    note: str = "",
) -> Iterator[Finding]:
    """Results beside the truth, each with ``factor`` times what another way to compute it errs as its bound.

    ``others`` are the results of that other way, None for the truth rounded to the result's dtype. No bound is below
    ``least``, or in fp32 below what the order of sums makes.
    """
    for index, (out, truth) in enumerate(zip(outs, expected, strict=True)):
        if out.shape != truth.shape:
            raise ValueError(f"result {index} has the shape {list(out.shape)}, not {list(truth.shape)}")
        other = others[index] if others else None
        floors = (FP32, FP32_WORST) if out.dtype == torch.float32 else (2**-20, 2**-20)
        errors = distances(out, truth)
        allowed = distances(truth.to(out.dtype) if other is None else other, truth)
        for kind, error, other_error, floor in zip(("norm", "element"), errors, allowed, floors, strict=True):
            bound = max(factor * other_error, least * (1 if kind == "norm" else 10), floor)
            yield Finding(error, bound, f"{note} {kind} of result {index}".strip())


def distances(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """Of the norm, and of the worst element relative to the largest; in fp64, or in fp32 for what is large."""
    wide = torch.float64 if x.numel() < 1 << 28 else torch.float32
    x, truth = x.to(wide), truth.to(wide)
    difference = x - truth
    norm, largest = float(truth.norm()), float(truth.abs().max())
    return float(difference.norm()) / (norm or 1.0), float(difference.abs().max()) / (largest or 1.0)


def equal(a: Sequence[Tensor], b: Sequence[Tensor], note: str) -> Finding:
    """Bit for bit; the error counts the elements that differ."""
    count = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    return Finding(float(count), 0.0, note if not count else f"{note}: {count} elements differ")


@dataclass(frozen=True)
class Place:
    """Where checks run: a GPU, or in a dry run the CPU, where Triton's interpreter stands in."""

    dry: bool

    @property
    def bench(self) -> DryRun:
        return DryRun() if self.dry else Gpu()

    @property
    def device(self) -> torch.device:
        return self.bench.place

    @property
    def target(self) -> str:
        return launch.target(self.device)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Ops run their kernels, and memory that nobody wrote is NaN."""
        with ExitStack() as stack:
            if self.dry:
                stack.enter_context(mock.patch.object(launch, "on_gpu", return_value=True))
            stack.enter_context(poison())
            yield

    @contextmanager
    def torch_path(self) -> Iterator[None]:
        """Ops run as on a CPU without compiled ones, on the device that their arguments are on."""
        with (
            mock.patch.object(launch, "on_gpu", return_value=False),
            mock.patch.object(native, "levels", return_value=()),
        ):
            yield

    def interpreter(self) -> Any:
        """In a dry run: what Triton's interpreter computes unlike a GPU is put right within it."""
        if not self.dry:
            return nullcontext()
        import pytest

        import interpreter  # of the tests

        patch = pytest.MonkeyPatch()
        interpreter.correct(patch)
        stack = ExitStack()
        stack.callback(patch.undo)
        return stack


@contextmanager
def poison() -> Iterator[None]:
    """Memory that nobody wrote is NaN, or the greatest integer, so that a result shows where it was not written."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **named: Any) -> Tensor:
            out = allocate(*args, **named)
            if out.dtype == torch.bool:
                return out
            return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

        return filled

    with ExitStack() as stack:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            stack.enter_context(mock.patch.object(owner, name, poisoned(getattr(owner, name))))
        yield
