"""The command ``slant``.

Exit codes: 0 when the work is done, rows with errors included; 2 for a problem with a file, a model or an option, told
in one line on stderr; 130 when interrupted, 141 when the reader of stdout left. Whatever is slow to import, torch above
all, is imported inside the commands, so that ``slant --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from slant import __version__
from slant.cli.bench import bench
from slant.cli.compile import compile_ahead
from slant.cli.drift import drift
from slant.cli.evaluate import evaluate
from slant.cli.finetune import finetune
from slant.cli.options import Input, Labels, MaxTokens, Template, Truncation, Weights, checkpoint_path, prompt_options
from slant.cli.quantize import quantize
from slant.errors import SlantError

if TYPE_CHECKING:
    from slant.cascade import Cascade
    from slant.engine import Engine

FAILURE, INTERRUPTED, NO_READER, TERMINATED = 2, 130, 141, 143

app = typer.Typer(
    name="slant",
    help="Score text with a fine-tuned language model in a single forward pass.",
    add_completion=False,
    rich_markup_mode="markdown",
)


class Output(StrEnum):
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


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
    from slant.cli.progress import Progress
    from slant.tables.bulk import score_table

    settings = prompt_options(template, labels, max_tokens)
    with Progress(hidden=output == "-" and sys.stdout.isatty()) as progress:

        def load() -> Engine | Cascade:
            from slant.cascade import Cascade
            from slant.engine import Engine

            options = {**settings, "device": device, "truncation": truncation.value, "threads": threads}
            options |= {"memory": memory, "deterministic": deterministic}
            engine = Engine.load(
                checkpoint_path(model),
                weights=weights.value,
                max_flip_rate=max_flip_rate,
                progress=progress.loaded,
                **options,
            )
            if rescore_unstable is None:
                return engine
            second = Engine.load(checkpoint_path(rescore_unstable), progress=progress.loaded, **options)
            return Cascade(engine, second)

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

    from slant.cli.progress import closing, passage
    from slant.demo import FOLDER, passages
    from slant.engine import Engine

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

    from slant.cli.inspect import report

    Console().print(report(checkpoint_path(model), **prompt_options(template, labels, max_tokens)))


app.command()(bench)
app.command()(drift)
app.command()(evaluate)
app.command()(finetune)
app.command()(quantize)
app.command("compile")(compile_ahead)


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
