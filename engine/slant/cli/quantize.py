"""The command ``slant quantize``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slant.cli.options import checkpoint_path, load_options, reading, takes
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.options import LoadOptions


@takes(reading, into="table")
@takes(load_options, "device", "template", "labels", "max_tokens")
def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint folder, a hub id, or demo: the bundled one.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    bits: Annotated[
        int | None, typer.Option(help="8, 4, 3 or 2; attention's output projections get 8. Default: 4.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Columns that share a scale: 32, 64 or 128. Default: 64; under a budget, any of them."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A JSON file with a rule for each tensor instead.")] = None,
    target_bytes: Annotated[
        int | None, typer.Option(min=1, help="Budget: choose bits so that all tensors take at most this.")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Budget: choose bits so that the mean KL(reference || DST) is at most this.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="TEXTS", help="CSV, JSON Lines, Parquet or lines to measure bits with.")
    ] = None,
    *,
    table: dict[str, Any],
    by: Annotated[
        Literal["tensor", "part"],
        typer.Option(help="Choose for each tensor, or for each layer's mixer and MLP: faster."),
    ] = "tensor",
    reference: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="What to measure in; bf16 takes half the memory.")
    ] = "fp32",
    options: LoadOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace DST, or another unfinished run for it.")] = False,
) -> None:
    """Quantize a checkpoint: DST is a small folder that can be scored with in its place, and without it.

    DST appears when it is complete. A stopped run goes on where it was when the same command is given again.

    With --target-bytes or --max-kl, bits and group sizes are measured on TEXTS and chosen matrix by matrix; the whole
    model is in memory for that, and a stopped run measures again.
    """
    from slant.artifact.recipe import Grid, Recipe
    from slant.artifact.writer import check_target
    from slant.cli.progress import Progress
    from slant.model.source import open_checkpoint
    from slant.quantize.job import quantize_checkpoint

    model = checkpoint_path(source)
    if target_bytes is None and max_kl is None:
        if calibration is not None:
            raise SlantError("--calibration goes with --target-bytes or --max-kl.")
        uniform = open_checkpoint(model).config.recipe(
            4 if bits is None else bits, 64 if group_size is None else group_size
        )
        rules = Recipe.read(recipe) if recipe else uniform
    else:
        if bits is not None or recipe is not None:
            raise SlantError("bits are chosen under --target-bytes or --max-kl: leave out --bits and --recipe.")
        if calibration is None and source != "demo":
            raise SlantError("name the texts to measure with: --calibration TEXTS.")
        check_target(destination, force)

        from slant.quantize.sensitivity import plan
        from slant.tables.labelled import LabelledTexts
        from slant_kernels.quantized import BITS

        if calibration is None:
            calibration, table["text_column"] = str(FOLDER / "passages.jsonl"), "text"
        texts = LabelledTexts.read(calibration, **table).texts
        grids = None if group_size is None else [*(Grid(bits, group_size) for bits in BITS), None]
        with Progress() as progress:
            found = plan(
                model,
                texts,
                options=replace(options, weights=reference),
                target_bytes=target_bytes,
                max_kl=max_kl,
                grids=grids,
                by=by,
                progress=progress,
            )
        print(found.summary())
        rules = found.recipe
    with Progress() as progress:
        made = replace(options, max_tokens=None)  # that of the calibration
        quantize_checkpoint(model, destination, rules, options=made, force=force, progress=progress.of("quantizing"))
