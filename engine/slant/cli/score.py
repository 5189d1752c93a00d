"""The command ``slant score``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from slant.cli.options import checkpoint_path, load_options, reading, takes
from slant.options import LoadOptions

if TYPE_CHECKING:
    from slant.cascade import Cascade
    from slant.engine import Engine


@takes(reading, into="table")
@takes(load_options)
def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="CSV, JSON Lines, Parquet or lines; - is stdin.")],
    model: Annotated[str, typer.Option(help="A checkpoint or artifact folder, a hub id, or demo: the bundled one.")],
    output: Annotated[str, typer.Option(metavar="OUT", help="The file to write; - is stdout.")] = "-",
    *,
    table: dict[str, Any],
    output_format: Annotated[
        Literal["csv", "tsv", "jsonl", "parquet"] | None,
        typer.Option(help="Default: the file's ending; jsonl for stdout."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the added columns.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    options: LoadOptions,
    window: Annotated[int, typer.Option(min=1, help="Rows scored at a time; more pads less and answers later.")] = 1024,
    rescore_unstable: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Answer rows within the certified drift again, with this model.")
    ] = None,
) -> None:
    """Score the texts of a table and write its rows with their answers.

    Added to each row: label, label_name, expected, p0, p1 ..., margin, tokens, truncated, special_tokens and error. A
    row that cannot be read or scored keeps its place, with an error and no score. The format of a file follows from its
    ending: .csv, .tsv, .jsonl, .json, .parquet, .arrow or .txt (one text a line); a packed one ends with .gz, .zst,
    .bz2 or .lz4 too. OUT appears when it is complete, or not at all.
    """
    from slant.cli.output import say
    from slant.cli.progress import Progress
    from slant.tables.bulk import score_table

    with Progress(keep=True, hidden=output == "-" and sys.stdout.isatty()) as progress:

        def load() -> Engine | Cascade:
            from slant.cascade import Cascade
            from slant.engine import Engine

            loading = progress.of("loading")
            engine = Engine.load(checkpoint_path(model), options, progress=loading)
            if rescore_unstable is None:
                return engine
            second = replace(options, weights="auto", max_flip_rate=None)
            return Cascade(engine, Engine.load(checkpoint_path(rescore_unstable), second, progress=loading))

        summary = score_table(
            load,
            source,
            output,
            **table,
            output_format=output_format,
            prefix=prefix,
            window=window,
            force=force,
            progress=progress.scored,
        )
    if summary.errors:
        say(f"{summary.errors} of {summary.rows} rows have an error; see the {prefix}error column.")
