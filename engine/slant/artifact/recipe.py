"""Recipe: how many bits each matrix of a model gets. Which matrices can be quantized, the model's architecture says."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from slant.errors import RecipeError
from slant.files import read_json
from slant.validation import only, record, shown
from slant_kernels.quantized import BITS, GROUP_SIZES

NAMED = {"hqq8": 8, "hqq4": 4, "hqq3": 3, "hqq2": 2}
W4A8 = "w4a8"  # the weights that multiply quantized matrices by activations of 8 bits
QUANTIZING = {**NAMED, W4A8: 4}  # the bits that a checkpoint is quantized to as it loads
_LAYER = re.compile(r"layers\.(0|[1-9]\d*)\.(.+)")


@dataclass(frozen=True)
class Grid:
    """The values a quantized weight can take: ``bits`` a code, one scale and zero for each ``group_size`` columns."""

    bits: Annotated[int, only(*BITS)]
    group_size: Annotated[int, only(*GROUP_SIZES)] = 64

    def __post_init__(self) -> None:
        for name, value, known in (("bits", self.bits, BITS), ("group_size", self.group_size, GROUP_SIZES)):
            if isinstance(value, bool) or value not in known:
                raise RecipeError(f"{name} is {value!r}; give one of {', '.join(map(str, known))}.")


@dataclass(frozen=True)
class Recipe:
    """Maps the name of a matrix to its grid, or to None: it stays as it is.

    A key of ``rules`` is a canonical name, ``layers.3.mlp.up_proj.weight``, or what it is in every layer,
    ``mlp.up_proj.weight``; the first wins over the second, and what has no rule stays as it is.
    """

    rules: Mapping[str, Grid | None]

    def grid(self, name: str) -> Grid | None:
        """The grid of the tensor with this canonical name."""
        return self.rules[name] if name in self.rules else self.rules.get(role_of(name))

    def check(self, names: Collection[str], quantizable: Collection[str]) -> None:
        """Raise RecipeError if a rule is for something other than a model's tensors ``names`` in a quantizable role."""
        for key in self.rules:
            if role_of(key) not in quantizable:
                raise RecipeError(f"{shown(key)} cannot be quantized; a recipe names layers' {', '.join(quantizable)}.")
            if _LAYER.fullmatch(key) and key not in names:
                raise RecipeError(f"the recipe has a rule for {shown(key)}, which the model does not have.")

    def json(self) -> dict[str, Any]:
        """What ``parse`` reads."""
        rules = {key: grid and {"bits": grid.bits, "group_size": grid.group_size} for key, grid in self.rules.items()}
        return {"rules": rules}

    @classmethod
    def parse(cls, raw: object, source: str = "the recipe") -> Recipe:
        """From decoded JSON: {"rules": {name: {"bits": 4, "group_size": 64}, name: null}}, with no other key.

        Without a ``group_size`` it is 64. Raises RecipeError naming the first field that is wrong.
        """
        return record(cls, raw, source, RecipeError, "correct the recipe")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """From a JSON file; raises RecipeError if it is missing, damaged or not a recipe."""
        return cls.parse(read_json(path, RecipeError), str(path))


def role_of(name: str) -> str:
    """The name without its layer."""
    found = _LAYER.fullmatch(name)
    return found[2] if found else name
