"""The command ``slant``: its commands, its exit codes, and one line on stderr for a problem.

Exit codes: 0 when the work is done, rows with errors included; 2 for a problem with a file, a model or an option; 130
when interrupted, 129 or 143 after SIGHUP or SIGTERM, 141 when the reader of stdout left. Modules that are slow to
import, torch above all, are imported inside the commands, so that ``slant --help`` answers at once.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from slant import __version__
from slant.cli.bench import bench
from slant.cli.compile import compile_ahead
from slant.cli.demo import demo
from slant.cli.drift import drift
from slant.cli.evaluate import evaluate
from slant.cli.finetune import finetune
from slant.cli.inspect import inspect
from slant.cli.merge import merge
from slant.cli.output import Notes, say
from slant.cli.quantize import quantize
from slant.cli.score import score
from slant.errors import SlantError

FAILURE, INTERRUPTED, NO_READER = 2, 130, 141

logging.getLogger("slant").addHandler(Notes())  # what was found out about an input, one line each

app = typer.Typer(
    name="slant",
    help="Score text with a fine-tuned language model in a single forward pass.",
    add_completion=False,
    rich_markup_mode="markdown",
)


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


for command in (score, demo, inspect, bench, drift, evaluate, finetune, merge, quantize):
    app.command()(command)
app.command("compile")(compile_ahead)


def run(arguments: list[str], stopped: Callable[[], bool] = lambda: False) -> int:
    """Run the command line ``arguments`` and return the exit code. ``stopped`` says whether a signal came."""
    try:
        code = _invoke([word for word in arguments if word != "--debug"])
        sys.stdout.flush()
        return code
    except BaseException as error:
        if stopped() or isinstance(error, KeyboardInterrupt | typer.Abort):
            say("interrupted.")  # a library may have made it another error
            return INTERRUPTED
        if isinstance(error, BrokenPipeError):
            return NO_READER
        if not isinstance(error, Exception):
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        say(_sentence(error))
        return FAILURE


def _invoke(arguments: list[str]) -> int:
    # Not typer's own runner, which prints errors in boxes of many lines and exits with 1.
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
    if isinstance(error, OSError) and error.filename in ("stdin", "stdout") and error.errno == errno.EBADF:
        return f"{error.filename} is closed."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "there is not enough memory; see docs/memory.md for what needs less."
    return f"unexpected {type(error).__name__}: {error}; run it again with --debug to see where."
