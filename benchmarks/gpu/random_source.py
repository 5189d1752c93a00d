"""A model with random weights that are made on the device where they are asked for: no file, no time to read one.

Speed and memory do not depend on the values, as long as they neither overflow nor are zero: matrices have the standard
deviation of an ordinary initialisation, so that activations keep an ordinary size through all blocks. Quantized
matrices are random codes in the real layout, of the same deviation; no solver made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from slant.artifact.recipe import Recipe
from slant.model.checkpoint import EMBEDDING, TensorInfo, expected_shapes
from slant.model.config import ModelConfig
from slant_kernels.quantized import QuantizedMatrix, dequantize, layout

STD = 0.02


class RandomSource:
    """A source as ``slant.model.source.Source`` describes it. What a tensor holds depends on its name only."""

    folder, head, certificate, probe = Path(), EMBEDDING, None, None
    notes: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig, device: torch.device, recipe: Recipe | None = None) -> None:
        self.config, self.device, self.recipe = config, device, recipe
        self.skipped: list[str] = []
        shapes = expected_shapes(config)
        self.tensors = {name: TensorInfo(Path(), name, shape, "BF16") for name, shape in shapes.items()}

    def read(self, name: str) -> Tensor:
        """One tensor on the device, dense: A_log and vectors fp32, all else bf16."""
        if (matrix := self.quantized(name)) is not None:
            return dequantize(matrix, torch.bfloat16)
        shape, random = self.tensors[name].shape, self._random(name)
        if name.endswith("A_log"):
            return torch.empty(shape, device=self.device).uniform_(0.01, 16, generator=random).log()
        if len(shape) == 1:
            value = 1.0 if name.endswith(("dt_bias", "linear_attn.norm.weight")) else 0.0
            return torch.full(shape, value, device=self.device)
        return torch.empty(shape, dtype=torch.bfloat16, device=self.device).normal_(std=STD, generator=random)

    def quantized(self, name: str) -> QuantizedMatrix | None:
        """Random codes, and scales that give the dequantized matrix the deviation of a dense one."""
        grid = self.recipe.grid(name) if self.recipe else None
        if grid is None:
            return None
        rows, columns = self.tensors[name].shape
        codes, groups = layout((rows, columns), grid.bits, grid.group_size)
        random = self._random(name)
        values = torch.randint(256, codes, dtype=torch.uint8, device=self.device, generator=random)
        step = STD * 12**0.5 / 2**grid.bits
        scales = step * (0.75 + 0.5 * torch.rand(groups, device=self.device, generator=random))
        zeros = torch.rand(groups, device=self.device, generator=random) - 0.5
        return QuantizedMatrix(values, scales.half(), zeros.half(), grid.bits, grid.group_size, (rows, columns))

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        return self.read(name)[list(ids)]

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        return self.rows(self.head, ids)

    def _random(self, name: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(crc32(name.encode()))
