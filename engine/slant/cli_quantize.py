"""The command ``slant quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint folder, a hub id, or demo: the bundled one.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    bits: Annotated[int, typer.Option(help="8, 4, 3 or 2; attention's output projections get 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Columns that share a scale: 32, 64 or 128.")] = 64,
    recipe: Annotated[Path | None, typer.Option(help="A JSON file with a rule for each tensor instead.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Annotated[
        Path | None, typer.Option(help='The prompt as a file, with "{article}" where the text goes.')
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A JSON file that maps each answer to its name, in class order.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace DST, or another unfinished run for it.")] = False,
) -> None:
    """Quantize a checkpoint: DST is a small folder that can be scored with in its place, and without it.

    DST appears when it is complete. A stopped run goes on where it was when the same command is given again.
    """
    from slant.cli import _checkpoint, _prompt
    from slant.recipe import Recipe
    from slant.show import Progress
    from slant.writer import quantize_checkpoint

    rules = Recipe.read(recipe) if recipe else Recipe.of(bits, group_size)
    prompt = _prompt(template, labels, max_tokens=0)
    with Progress() as progress:
        quantize_checkpoint(
            _checkpoint(source),
            destination,
            rules,
            device=device,
            template=prompt["template"],
            labels=prompt["labels"],
            force=force,
            progress=progress.quantized,
        )
