"""The architectures that are computed here, by the name that ``config.json`` gives them.

A new one is a folder with a ``ModelConfig`` and its name in ``CONFIGS``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slant.errors import CheckpointError
from slant.model.config import ModelConfig
from slant.model.qwen3_5.config import Qwen3_5Config

CONFIGS: tuple[type[ModelConfig], ...] = (Qwen3_5Config,)
ARCHITECTURES = {name: config for config in CONFIGS for name in config.network_prefix}


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a checkpoint folder.

    Raises CheckpointError if the file is missing or damaged, or describes a model that is not computed here.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; give the folder of a saved model or a hub id.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); save or download the model again.") from None
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """The configuration from the decoded JSON; ``source`` names the file in errors.

    A file without ``architectures`` is told by its ``model_type``.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{source} is not a JSON object.")
    kind = str(raw.get("model_type"))
    names = raw.get("architectures") or [name for name, config in ARCHITECTURES.items() if kind in config.model_types]
    config = ARCHITECTURES.get(names[0]) if names else None
    if config is None or kind not in config.model_types:
        named = f" with the architecture {names[0]}" if names else ""
        raise CheckpointError(f"{source} describes a {kind!r} model{named}; slant computes {', '.join(ARCHITECTURES)}.")
    return config.parse(raw, source)
