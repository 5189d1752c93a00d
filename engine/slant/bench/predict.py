"""How fast a model will be here, before it is loaded: a few blocks like its own are timed, with made-up weights.

They are those of ``outline.reduced``, one of each kind; the time of all follows by their floating-point operations.
What the weights are does not matter to the time. Reading a file, and the tokenizer, are left out.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from slant.model.config import ModelConfig
from slant.model.network import Model
from slant.model.outline import Outline, reduced
from slant.model.weights import Weights
from slant.runtime.resolved import ResolvedOptions
from slant_kernels.onednn import can_reorder
from slant_kernels.panels import can_pack

ROWS, TOKENS, RUNS = 4, 128, 3
VOCABULARY = 256
_NUMBERS = 8191  # made up once and repeated: drawing as many as a block has would take longer than computing it


class MadeUp(Outline):
    """A source whose tensors hold small numbers."""

    def read(self, name: str) -> Tensor:
        shape = self.tensors[name].shape
        numbers = torch.linspace(-0.04, 0.04, _NUMBERS, dtype=torch.float32, device="cpu").to(torch.bfloat16)
        count = torch.Size(shape).numel()
        return numbers.repeat(-(-count // _NUMBERS))[:count].view(shape)


def tokens_per_second(config: ModelConfig, options: ResolvedOptions) -> float:
    """Of texts of 128 tokens in batches of four, on the CPU, with dense weights where all of them are resident."""
    small = replace(reduced(config)[0], vocab_size=VOCABULARY)
    dtype, device = options.dtype, options.device
    panels = can_pack(device, *{columns for _, columns in config.merged_shapes()})
    reordered = can_reorder(dtype, device)
    weights = Weights(MadeUp(small), dtype, device, storage=options.storage, panels=panels, reordered=reordered)
    model = Model(weights, TOKENS)
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64, device="cpu")
    lengths = torch.full((ROWS,), TOKENS, dtype=torch.int64, device="cpu")
    seconds = []
    with torch.inference_mode():
        for _ in range(RUNS):
            start = time.perf_counter()
            model(ids, lengths)
            seconds.append(time.perf_counter() - start)
    whole, part = (token + square * TOKENS for token, square in (config.flops(), small.flops()))
    return ROWS * TOKENS / (min(seconds) * whole / part)
