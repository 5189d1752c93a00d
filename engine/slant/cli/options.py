"""Options that several commands share, each declared once.

``load_options`` declares those that load a model and makes ``LoadOptions`` of them; a command names the ones it has:
``@takes(load_options, "weights", "device")``. Nothing here imports torch, since ``--help`` has to be fast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slant.cli.output import say
from slant.cli.pools import limit_pools
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.files import read_json, read_text
from slant.options import LoadOptions

Command = Callable[..., None]
Model = Annotated[str, typer.Argument(help="A checkpoint or artifact folder, a hub id, or demo: the bundled one.")]
InputFormat = Annotated[
    Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow", "lines"] | None,
    typer.Option("--input-format", "--format", help="Default: by the file's ending; lines for stdin."),
]
Labels = Annotated[Path | None, typer.Option(help="A JSON file that maps each answer to its name, in class order.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The longest prompt. Default: 8192, or the model's own limit if that is less.")
]
Truncation = Annotated[
    Literal["head", "middle", "error"],
    typer.Option(help="Of a longer text keep its head, or its head and tail, or make it an error."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHAR", help="Between the fields of CSV, or tab. Default: what the header shows."),
]
JsonOutput = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write figures as JSON.")]
HtmlOutput = Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page with plots.")]


# What a command needs that runs a model: advice in messages may name any of these.
RUNNING = ("weights", "device", "template", "labels", "max_tokens", "token_budget", "memory", "threads")


def load_options(
    weights: Annotated[
        Literal[
            "auto", "auto-8bit", "auto-4bit", "bf16", "fp32", "int8", "fp8", "w4a8", "hqq8", "hqq4", "hqq3", "hqq2"
        ],
        typer.Option(help="auto is bf16 where the device multiplies it natively, else fp32."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Annotated[
        Path | None, typer.Option(help='The prompt as a file, with "{article}" where the text goes.')
    ] = None,
    labels: Labels = None,
    max_tokens: MaxTokens = None,
    truncation: Truncation = "head",
    special_tokens: Annotated[
        Literal["text", "parse"],
        typer.Option(help='Of "<|im_end|>" and its like in a text read the characters, or make special tokens.'),
    ] = "text",
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Computed tokens a batch. Default: what suits the device.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What the device may hold: auto, or a size like 4GB; decides where weights stay.")
    ] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits for a text whatever else is scored with it.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the cores there are.")] = None,
    max_flip_rate: Annotated[
        float | None, typer.Option(min=0, help="Refuse a model that is not certified to flip at most this share.")
    ] = None,
) -> LoadOptions:
    """The options that load a model; each is a field, template and labels the content of a file."""
    if threads is not None:
        limit_pools(threads)
    fields = {**locals(), "template": read_template(template), "labels": read_labels(labels)}
    return LoadOptions(**fields)


def reading(
    text_column: Annotated[str, typer.Option(help="The column or key that holds the text.")] = "text",
    input_format: InputFormat = None,
    encoding: Annotated[str, typer.Option(help="Of CSV, JSON Lines and lines, for example latin-1.")] = "utf-8",
    delimiter: Delimiter = None,
) -> dict[str, Any]:
    """The options that read a table, by the names of ``LabelledTexts.read``."""
    return locals()


def takes(make: Callable[..., Any], *names: str, into: str = "options") -> Callable[[Command], Command]:
    """Gives a command the options that ``make`` declares, all or the named ones; its parameter ``into`` is the result.

    In the command's help they stand where that parameter stands.
    """

    def decorate(command: Command) -> Command:
        declared = {name: option for name, option in _parameters(make).items() if name in names or not names}

        @wraps(command)
        def run(**given: Any) -> None:
            made = make(**{name: given.pop(name) for name in declared})
            command(**given, **{into: made})

        shown: list[inspect.Parameter] = []
        for name, parameter in _parameters(command).items():
            shown += declared.values() if name == into else [parameter]
        shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return run

    return decorate


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function, eval_str=True).parameters


def read_template(path: Path | None) -> str | None:
    """The prompt template in a file; raises SlantError if it cannot be read."""
    template = read_text(path) if path else None
    if template and "\r\n" in template:
        say(f"{path} has Windows line ends (CR LF), and the prompt has them too; save it with LF if training had that.")
    return template


def read_labels(path: Path | None) -> dict[str, str] | None:
    """The names of answers in a JSON file; raises SlantError if that is not what it holds."""
    names = read_json(path) if path else None
    if path and not (isinstance(names, dict) and all(isinstance(name, str) for name in names.values())):
        raise SlantError(f'{path} must map each answer to its name, as in {{"0": "far left", "1": "lean left"}}.')
    return names


def checkpoint_path(model: str) -> str:
    """The path or hub id; "demo" is the bundled checkpoint."""
    return str(FOLDER) if model == "demo" else model
