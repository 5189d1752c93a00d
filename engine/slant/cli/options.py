"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slant.errors import SlantError

Input = Literal["csv", "jsonl", "parquet", "lines"]
Weights = Literal["auto", "bf16", "fp32", "int8", "hqq8", "hqq4", "hqq3", "hqq2"]
Truncation = Literal["head", "middle", "error"]

Template = Annotated[Path | None, typer.Option(help='The prompt as a file, with "{article}" where the text goes.')]
Labels = Annotated[Path | None, typer.Option(help="A JSON file that maps each answer to its name, in class order.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The longest prompt in tokens. Default: 8192, or the model's own limit.")
]


def checkpoint_path(model: str) -> str:
    """The path or hub id; "demo" is the bundled checkpoint."""
    if model != "demo":
        return model
    from slant.demo import FOLDER

    return str(FOLDER)


def prompt_options(template: Path | None, labels: Path | None, max_tokens: int | None) -> dict[str, Any]:
    """The options that make the prompt, as Engine.load takes them."""
    try:
        text = template.read_bytes().decode() if template else None
    except UnicodeDecodeError as error:
        raise SlantError(f"{template} is not UTF-8: {error}.") from error
    try:
        names = json.loads(labels.read_bytes()) if labels else None
    except ValueError as error:
        raise SlantError(f"{labels} is not JSON: {error}.") from error
    if names is not None and not (isinstance(names, Mapping) and all(isinstance(name, str) for name in names.values())):
        raise SlantError(f'{labels} must map each answer to its name, as in {{"0": "far left", "1": "lean left"}}.')
    return {"template": text, "labels": names, "max_tokens": max_tokens}
