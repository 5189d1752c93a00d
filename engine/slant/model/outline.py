"""A model's tensors without values: shapes on torch's ``meta`` device, from the configuration alone.

    Model(Weights(Outline(config), torch.bfloat16, torch.device("meta")), max_tokens)

makes a whole model in no memory. It runs like another and computes nothing: its launches compile kernels, and what it
would allocate can be counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slant.artifact.recipe import Recipe
from slant.model.config import ModelConfig
from slant.tensor_files import TensorInfo
from slant_kernels.quantized import QuantizedMatrix, layout

META = torch.device("meta")


class Outline:
    """The part of a Source that ``Weights`` reads, with the matrices that a recipe names in its quantized form."""

    def __init__(self, config: ModelConfig, recipe: Recipe | None = None) -> None:
        self.config, self.recipe = config, recipe
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(Path(), name, shape, "BF16") for name, shape in config.shapes().items()
        }

    def read(self, name: str) -> Tensor:
        return torch.empty(self.tensors[name].shape, dtype=torch.bfloat16, device=META)

    def as_stored(self, name: str) -> None:
        """None: there are no files."""

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        return self.read(name)[: len(ids)]

    def quantized(self, name: str) -> QuantizedMatrix | None:
        grid = self.recipe.grid(name) if self.recipe else None
        if grid is None:
            return None
        rows, columns = self.tensors[name].shape
        codes, groups = layout((rows, columns), grid.bits, grid.group_size)
        scales, zeros = (torch.empty(groups, dtype=torch.float16, device=META) for _ in range(2))
        return QuantizedMatrix(
            torch.empty(codes, dtype=torch.uint8, device=META), scales, zeros, grid.bits, grid.group_size,
            (rows, columns),
        )  # fmt: skip


def reduced(config: ModelConfig, recipe: Recipe | None = None) -> tuple[ModelConfig, Recipe | None]:
    """The smallest model of the same shapes: of blocks alike in kind and grids one is kept, and the last of all."""
    *others, last = range(config.num_hidden_layers)
    kept = [*sorted({_likeness(config, recipe, index): index for index in others}.values()), last]
    types = tuple(config.layer_types[index] for index in kept)
    small = replace(config, num_hidden_layers=len(kept), layer_types=types)
    if recipe is None:
        return small, None
    roles = config.quantizable
    names = [(f"layers.{new}.{role}", f"layers.{old}.{role}") for new, old in enumerate(kept) for role in roles]
    return small, Recipe({new: recipe.grid(old) for new, old in names})


def _likeness(config: ModelConfig, recipe: Recipe | None, index: int) -> tuple[object, ...]:
    return config.layer_types[index], *(recipe.grid(f"layers.{index}.{role}") for role in config.quantizable if recipe)
