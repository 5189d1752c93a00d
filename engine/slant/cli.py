"""The command ``slant``.

Exit codes: 0 when the work is done, rows with errors included; 2 for a problem with a file, a model or an option, told
in one line on stderr; 130 when interrupted, 141 when the reader of stdout left. Whatever is slow to import, torch above
all, is imported inside the commands, so that ``slant --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slant import __version__
from slant.errors import SlantError

if TYPE_CHECKING:
    from slant.engine import Engine

FAILURE, INTERRUPTED, NO_READER, TERMINATED = 2, 130, 141, 143

app = typer.Typer(
    name="slant",
    help="Score text with a fine-tuned language model in a single forward pass.",
    add_completion=False,
    rich_markup_mode="markdown",
)


class Input(StrEnum):
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"
    lines = "lines"


class Output(StrEnum):
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


class Weights(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Truncation(StrEnum):
    head = "head"
    middle = "middle"
    error = "error"


Template = Annotated[Path | None, typer.Option(help='The prompt as a file, with "{article}" where the text goes.')]
Labels = Annotated[Path | None, typer.Option(help="A JSON file that maps each answer to its name, in class order.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="The longest prompt in tokens.")]


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (anywhere).")] = False,
) -> None:
    if version:
        print(f"slant {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.get_help()  # typer prints it
        raise typer.Exit


@app.command()
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
    weights: Annotated[
        Weights, typer.Option(help="auto is bf16 where the device multiplies it natively.")
    ] = Weights.auto,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = 8192,
    truncation: Annotated[
        Truncation, typer.Option(help="Of a longer text keep its head, or its head and tail, or make it an error.")
    ] = Truncation.head,
    window: Annotated[int, typer.Option(min=1, help="Rows scored at a time; more pads less and answers later.")] = 1024,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")] = None,
) -> None:
    """Score the texts of a table and write its rows with their answers.

    Added to each row: label, label_name, expected, p0, p1 ..., margin, tokens, truncated and error. A row that cannot
    be read or scored keeps its place, with an error and no score. The format of a file follows from its ending: .csv,
    .jsonl, .ndjson, .parquet or .txt (one text a line). OUT appears when it is complete, or not at all.
    """
    from slant.bulk import score_table
    from slant.show import Progress

    settings = _prompt(template, labels, max_tokens)
    with Progress(hidden=output == "-" and sys.stdout.isatty()) as progress:

        def load() -> Engine:
            from slant.engine import Engine

            return Engine.load(
                _checkpoint(model),
                weights=weights.value,
                device=device,
                truncation=truncation.value,
                threads=threads,
                progress=progress.loaded,
                **settings,
            )

        summary = score_table(
            load,
            source,
            output,
            text_column=text_column,
            input_format=input_format and input_format.value,
            output_format=output_format and output_format.value,
            encoding=encoding,
            prefix=prefix,
            window=window,
            force=force,
            progress=progress.scored,
        )
    if summary.errors:
        _say(f"{summary.errors} of {summary.rows} rows have an error; see the {prefix}error column.")


@app.command()
def demo() -> None:
    """Score the bundled passages with the bundled checkpoint."""
    from rich.console import Console

    from slant.demo import FOLDER, passages
    from slant.engine import Engine
    from slant.show import closing, passage

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(highlight=False)
    engine = Engine.load(FOLDER)
    engine.warmup()
    bundled = passages()
    tokens = as_written = 0
    start = time.perf_counter()
    # A small window, so that the first passages show while the others are scored.
    for one, answer in zip(bundled, engine.stream([one["text"] for one in bundled], window=8), strict=True):
        if answer.error:
            raise SlantError(f"the bundled checkpoint does not work here: {answer.error}")
        tokens += answer.tokens
        as_written += answer.label_name == one["leaning"]
        console.print(passage(one["text"], answer, engine.labels, console))
        console.print()
    console.print(closing(len(bundled), as_written, tokens, time.perf_counter() - start))


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or demo: the bundled one.")],
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = 8192,
) -> None:
    """Show a checkpoint's architecture, tensors, prompt and memory need, without loading it."""
    from rich.console import Console

    from slant.inspect import report

    Console().print(report(_checkpoint(model), **_prompt(template, labels, max_tokens)))


def _checkpoint(model: str) -> str:
    if model != "demo":
        return model
    from slant.demo import FOLDER

    return str(FOLDER)


def _prompt(template: Path | None, labels: Path | None, max_tokens: int) -> dict[str, Any]:
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


def main() -> None:
    """The console script: run ``sys.argv`` and exit with its code."""
    # A terminated run ends like an interrupted one, so that it leaves no temporary file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # It is told already; the flush at exit must not tell it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line ``arguments`` and return the exit code."""
    try:
        code = _invoke([word for word in arguments if word != "--debug"])
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        return NO_READER
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _say(_sentence(error))
        return FAILURE
    return code


def _invoke(arguments: list[str]) -> int:
    # Not typer's own runner, which has its own way with errors: boxes of many lines and exit code 1.
    command = typer.main.get_command(app)
    try:
        with command.make_context("slant", arguments) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, SlantError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own, about the command line
        return f"{error.format_message().rstrip('.')}; see slant --help."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return f"unexpected {type(error).__name__}: {error}; run it again with --debug to see where."


def _say(message: str) -> None:
    print("slant:", " ".join(message.split()), file=sys.stderr)
