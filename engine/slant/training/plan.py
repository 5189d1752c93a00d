"""The plan of a run, all that its result depends on, and the folder it works in.

A stopped run is resumed only with the same plan.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from slant import __version__
from slant.errors import CheckpointError
from slant.files import remove_unfinished, sha256, write_whole
from slant.model.checkpoint import Checkpoint
from slant.prompt.prompt import Prompt
from slant.training.data import TrainingTable
from slant.training.recipe import TrainingRecipe

NAME = "plan.json"
NEEDED = ("peft", "accelerate")


def plan_of(
    checkpoint: Checkpoint,
    tables: Sequence[TrainingTable],
    prompt: Prompt,
    recipe: TrainingRecipe,
    device: torch.device,
    *,
    bf16: bool,
) -> dict[str, Any]:
    """All that the trained weights depend on, as JSON; files by their SHA-256."""
    weights = sorted({info.file for info in checkpoint.tensors.values()})
    files = [checkpoint.folder / "config.json", checkpoint.folder / "tokenizer.json", *weights]
    return {
        "base": {path.name: sha256(path) for path in files},
        "data": [_source(table) for table in tables],
        "template": prompt.template,
        "labels": dict(prompt.labels),
        "recipe": recipe.json(),
        "environment": {
            "slant": __version__,
            **{name: version(name) for name in ("torch", "transformers", *NEEDED)},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "precision": "bf16" if bf16 else "fp32",
        },
    }


def working_folder(target: Path, resume: bool) -> Path:
    """``NAME.partial`` beside ``target``. Raises CheckpointError if there is a target, or a run not to resume."""
    partial = target.with_name(target.name + ".partial")
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist.")
    if target.exists():
        raise CheckpointError(f"{target} exists; name another destination.")
    if partial.exists() and not resume:
        raise CheckpointError(f"{partial} holds an unfinished run: go on with resume (--resume), or remove it.")
    return partial


def begin(partial: Path, plan: Mapping[str, Any]) -> None:
    """Make the working folder; raises CheckpointError if it exists with another plan."""
    partial.mkdir(exist_ok=True)
    path = partial / NAME
    if path.exists():
        begun = json.loads(path.read_bytes())
        if different := [key for key in plan if plan[key] != begun.get(key)]:
            raise CheckpointError(
                f"{partial} was begun with another {' and '.join(different)}: resume with the same, or remove it."
            )
    elif any(not found.name.startswith(".") for found in partial.iterdir()):
        raise CheckpointError(f"{partial} is in the way and was not made by slant; remove it.")
    else:
        write_json(path, plan)
    remove_unfinished(partial)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _source(table: TrainingTable) -> dict[str, str]:
    columns = {"text_column": table.text_column, "labels_column": table.labels_column}
    groups = {"group_column": table.group_column} if table.group_column else {}
    read = {**columns, **groups, "encoding": table.encoding}
    return {"file": Path(table.path).name, **read, "sha256": sha256(Path(table.path))}
