"""The architectures that are computed here, by the name that ``config.json`` gives them.

A new one is a folder and an entry of ``FAMILIES``. Nothing outside its folder knows which family a model is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from slant.errors import CheckpointError
from slant.files import read_json
from slant.model.block import Block
from slant.model.config import ModelConfig
from slant.model.qwen3_5 import blocks as qwen3_5_blocks
from slant.model.qwen3_5 import memory as qwen3_5_memory
from slant.model.qwen3_5.config import Qwen3_5Config
from slant.model.weights import Weights
from slant.validation import STRICT, shown, table


class Family(NamedTuple):
    """``block(config, weights, index)`` loads a block; ``activation_bytes`` is that of the function below."""

    config: type[ModelConfig]
    block: Callable[..., Block]
    activation_bytes: Callable[..., int]


FAMILIES = (Family(Qwen3_5Config, qwen3_5_blocks.Block, qwen3_5_memory.activation_bytes),)
ARCHITECTURES = {name: family for family in FAMILIES for name in family.config.network_prefix}


def load_block(weights: Weights, index: int) -> Block:
    """Load block ``index`` of the model that ``weights`` reads."""
    config = weights.source.config
    return ARCHITECTURES[config.architecture].block(config, weights, index)


def activation_bytes(config: ModelConfig, itemsize: int, rows: int, length: int, device_type: str = "cpu") -> int:
    """The most that a forward of ``rows`` texts of ``length`` tokens holds beside weights and prefix."""
    family = ARCHITECTURES[config.architecture]
    return family.activation_bytes(config, itemsize, rows, length, device_type)


class _Named(BaseModel):
    model_config = STRICT

    model_type: str
    architectures: list[str] | None = None


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a checkpoint folder; of a key that is there twice the last counts, as in transformers.

    Raises CheckpointError if the file is missing or damaged, or describes a model that is not computed here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the folder of a saved model or a hub id.")
    return parse_config(read_json(path, CheckpointError, unique=False), str(path))


def parse_config(raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """The configuration from the decoded JSON; ``source`` names the file in errors.

    A file without ``architectures`` is told by its ``model_type``.
    """
    named = table(_Named, raw, source, CheckpointError, "give the folder of a saved model")
    known = [name for name, family in ARCHITECTURES.items() if named.model_type in family.config.model_types]
    names = named.architectures or known
    family = ARCHITECTURES.get(names[0]) if known else None
    if family is None or named.model_type not in family.config.model_types:
        raise CheckpointError(
            f"{source} describes a model of the model_type {shown(named.model_type)} and the architectures "
            f"{shown(named.architectures)}; slant computes {', '.join(ARCHITECTURES)}."
        )
    return family.config.parse(raw, source)
