"""The command ``slant merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    adapter: Annotated[str, typer.Argument(help="A folder or hub id with a LoRA adapter in peft's format.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The checkpoint folder to make.")],
    base: Annotated[
        str | None, typer.Option(help="The base, a folder or hub id. Default: the one that the adapter names.")
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base: OUT is a checkpoint for slant and for transformers.

    OUT appears when it is complete. One tensor is in memory at a time. To score an adapter it need not be merged:
    every command takes an adapter's folder in place of a checkpoint.
    """
    from slant.cli.progress import Progress
    from slant.model.merge import merge_adapter

    with Progress() as progress:
        merge_adapter(adapter, output, base, progress.of("merging"))
