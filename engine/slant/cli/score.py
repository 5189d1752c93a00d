"""The command ``slant score``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from slant.cli.options import Input, Labels, MaxTokens, Template, Truncation, Weights, checkpoint_path, prompt_options

if TYPE_CHECKING:
    from slant.cascade import Cascade
    from slant.engine import Engine

Output = Literal["csv", "jsonl", "parquet"]


def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="CSV, JSON Lines, Parquet or lines; - is stdin.")],
    model: Annotated[str, typer.Option(help="A checkpoint folder, a hub id, or demo: the bundled one.")],
    output: Annotated[str, typer.Option(metavar="OUT", help="The file to write; - is stdout.")] = "-",
    text_column: Annotated[str, typer.Option(help="The column or key that holds the text.")] = "text",
    input_format: Annotated[
        Input | None, typer.Option("--input-format", "--format", help="Default: the file's ending; lines for stdin.")
    ] = None,
    output_format: Annotated[Output | None, typer.Option(help="Default: the file's ending; jsonl for stdout.")] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV, JSON Lines and lines, for example latin-1.")] = "utf-8",
    prefix: Annotated[str, typer.Option(help="Put before the names of the added columns.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    weights: Annotated[Weights, typer.Option(help="auto is bf16 where the device multiplies it natively.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = None,
    truncation: Annotated[
        Truncation, typer.Option(help="Of a longer text keep its head, or its head and tail, or make it an error.")
    ] = "head",
    window: Annotated[int, typer.Option(min=1, help="Rows scored at a time; more pads less and answers later.")] = 1024,
    memory: Annotated[
        str, typer.Option(help="What the device may hold: auto, or a size like 4GB; decides where weights stay.")
    ] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits for a text whatever else is scored with it.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")] = None,
    max_flip_rate: Annotated[
        float | None, typer.Option(min=0, help="Refuse a model that is not certified to flip at most this share.")
    ] = None,
    rescore_unstable: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Answer rows within the certified drift again, with this model.")
    ] = None,
) -> None:
    """Score the texts of a table and write its rows with their answers.

    Added to each row: label, label_name, expected, p0, p1 ..., margin, tokens, truncated and error. A row that cannot
    be read or scored keeps its place, with an error and no score. The format of a file follows from its ending: .csv,
    .jsonl, .ndjson, .parquet or .txt (one text a line). OUT appears when it is complete, or not at all.
    """
    from slant.cli.output import say
    from slant.cli.progress import Progress
    from slant.tables.bulk import score_table

    settings = prompt_options(template, labels, max_tokens)
    with Progress(keep=True, hidden=output == "-" and sys.stdout.isatty()) as progress:

        def load() -> Engine | Cascade:
            from slant.cascade import Cascade
            from slant.engine import Engine

            options = {**settings, "device": device, "truncation": truncation, "threads": threads}
            options |= {"memory": memory, "deterministic": deterministic, "progress": progress.of("loading")}
            engine = Engine.load(checkpoint_path(model), weights=weights, max_flip_rate=max_flip_rate, **options)
            if rescore_unstable is None:
                return engine
            return Cascade(engine, Engine.load(checkpoint_path(rescore_unstable), **options))

        summary = score_table(
            load,
            source,
            output,
            text_column=text_column,
            input_format=input_format,
            output_format=output_format,
            encoding=encoding,
            prefix=prefix,
            window=window,
            force=force,
            progress=progress.scored,
        )
    if summary.errors:
        say(f"{summary.errors} of {summary.rows} rows have an error; see the {prefix}error column.")
