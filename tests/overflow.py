"""Damaged copies of the demo checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from slant.demo import FOLDER


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """The demo checkpoint with tensors changed in place."""
    shutil.copytree(FOLDER, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def at_token(folder: Path, token: int) -> Path:
    """All weights are finite, and every text with this token is answered with NaN; other answers move by under 0.01.

    The token's embedding is one of the axes, so that the first norm makes more of it there than of any other token's;
    the norm's weight for this axis lets that overflow and nothing else, and no matrix reads the axis.
    """

    def change(tensors: dict[str, Tensor]) -> None:
        axis, block = 54, "model.layers.0"
        tensors["model.embed_tokens.weight"][token] = 0
        tensors["model.embed_tokens.weight"][token, axis] = 1
        tensors[f"{block}.input_layernorm.weight"][axis] = 3.2e37
        for name in tensors:
            if name.startswith(f"{block}.linear_attn.in_proj"):
                tensors[name][:, axis] = 0

    return changed(folder, change)
