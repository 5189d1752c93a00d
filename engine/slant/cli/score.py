"""The command ``slant score``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from slant.cli.options import HtmlOutput, JsonOutput, checkpoint_path, load_options, reading, takes
from slant.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from slant.cascade import Cascade
    from slant.engine import Engine


@takes(reading, into="table")
@takes(load_options)
def score(
    source: Annotated[
        list[str], typer.Argument(metavar="IN...", help='Tables, folders or patterns such as "data/*.csv"; - is stdin.')
    ],
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
    parts: Annotated[
        bool, typer.Option("--parts", help="Make OUT a folder of Parquet files, one a window, and join nothing.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin an unfinished job anew.")] = False,
    retry_errors: Annotated[
        bool,
        typer.Option("--retry-errors", help="Score rows that failed again: of an unfinished job, or with --store."),
    ] = False,
    max_errors: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Stop when more rows have an error. Default: go on.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep scores in an SQLite file, and take known ones from it.")
    ] = None,
    json_output: JsonOutput = None,
    html_output: HtmlOutput = None,
    group_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Show the expected score by its values in --json and --html.")
    ] = None,
    date_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Show it over these dates, such as 2024-05-31, as well.")
    ] = None,
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
    .bz2 or .lz4 too. OUT appears when it is complete, or not at all. A job that was stopped goes on when the same
    command is given again; what is finished is in the folder OUT.parts until then.
    """
    from slant.cli.output import check_writable, say, write_reports
    from slant.cli.progress import Progress
    from slant.tables.bulk import score_table

    check_writable((json_output, html_output), inputs=[*source, output])
    labels: list[str] = []

    with Progress(keep=True, hidden=output == "-" and sys.stdout.isatty()) as progress:

        def load() -> Engine | Cascade:
            from slant.cascade import Cascade
            from slant.engine import Engine

            loading = progress.of("loading")
            engine = Engine.load(checkpoint_path(model), options, progress=loading)
            labels.extend(engine.labels)
            if AUTO.get(options.weights):
                say(engine.description)
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
            parts=parts,
            restart=restart,
            retry_errors=retry_errors,
            max_errors=max_errors,
            store=store,
            group_column=group_column,
            date_column=date_column,
            progress=progress.scored,
            hashing=progress.of("hashing"),
        )

    def page() -> str:
        from slant.evaluation.job_page import job_page

        return job_page(summary, output, labels, group_column=group_column, date_column=date_column)

    write_reports(json_output, summary.json(), html_output, page)
    if summary.errors:
        say(f"{summary.errors} of {summary.rows} rows have an error; see the {prefix}error column.")
    if summary.problems:
        say(f"{len(summary.problems)} of the inputs could not be read whole, as said above.")
        raise typer.Exit(2)
