"""The GPU suite without a GPU: every case at tiny sizes through Triton's interpreter, and no time is told.

It shows that the cases run and that ``bytes`` is what their tensors hold, before a GPU is paid for. It does not look
at results, and cannot: the interpreter multiplies matrices of bf16 as if they were integers.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from gpu.case import Case
from gpu.kernel_cases import cases
from gpu.measure import Bench, add, table
from gpu.run import chosen
from gpu.timing import Arguments, Limits, Sample
from random_model import SHAPES
from slant.model.config import ModelConfig
from slant_kernels import launch

TINY = ModelConfig.parse(
    SHAPES["4b"]
    | {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
)
BATCHES, FEW = ((1, 12), (2, 70)), (16,)


class NoClock:
    """Runs each call once and tells no time; keeps the first loop's arguments and results."""

    def __init__(self) -> None:
        self.first: list[Any] = []

    def loop(self, run: Callable[..., Any], sets: Sequence[Arguments], captured: bool) -> Sample:
        results = [(arguments, run(*arguments)) for arguments in sets]
        self.first = self.first or results
        return lambda: math.nan


def tiny_cases() -> list[Case]:
    return cases(TINY, BATCHES, FEW)


def run(options: Namespace, console: Console, everything: Sequence[Case] | None = None) -> int:
    """Run the cases that the options ask for, of ``everything`` or all tiny ones."""
    wanted = chosen(tiny_cases() if everything is None else list(everything), options.op, options.shape)
    shown, wrong = table(), 0
    for case in wanted:
        clock = NoClock()
        bench = Bench(clock, torch.device("cpu"), Limits(math.inf, math.inf), cache=0, seconds=0)
        with mock.patch.object(launch, "on_gpu", return_value=True), np.errstate(all="ignore"):
            measured = bench.measure(case, peers=not options.no_peers)
        add(shown, list(bench.rows(measured)), measured.reasons)
        if excess := case.bytes + case.uncounted - held(clock.first[0]):
            console.print(f"{case.op} {case.label}: {excess} more bytes stated than its tensors hold")
            wrong += 1
    console.print(shown)
    console.print(f"{len(wanted)} cases ran, {wrong} of them with wrong bytes; nothing was timed and nothing written.")
    return 1 if wrong else 0


def held(values: Any) -> int:
    """Bytes of all tensors in ``values``, each once."""
    return sum({(tensor.data_ptr(), tensor.shape): tensor.nbytes for tensor in tensors(values)}.values())


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value):
        for part in fields(value):
            yield from tensors(getattr(value, part.name))
