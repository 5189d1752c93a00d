"""The command ``slant bench``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from slant.cli.options import Input, Labels, MaxTokens, Template, Weights, checkpoint_path, prompt_options
from slant.errors import SlantError


def bench(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, an artifact, or demo: the bundled one.")],
    lengths: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Tokens of a single text's prompt. Default: 128,512,2048 or the nearest."),
    ] = None,
    texts: Annotated[str, typer.Option(metavar="N,N", help="Texts of the shortest length in one call.")] = "1,8,64",
    source: Annotated[
        str | None, typer.Option("--input", metavar="IN", help="Your own texts: CSV, JSON Lines, Parquet or lines.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column or key that holds the text.")] = "text",
    rows: Annotated[int, typer.Option(min=1, help="The first rows of IN that are taken, in one call.")] = 64,
    input_format: Annotated[
        Input | None, typer.Option("--input-format", "--format", help="Default: the file's ending.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV, JSON Lines and lines, for example latin-1.")] = "utf-8",
    seconds: Annotated[
        float, typer.Option(min=0, help="For each workload, beyond the three calls that it has at least.")
    ] = 3.0,
    weights: Annotated[Weights, typer.Option(help="As for slant score.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto is cuda if there is one.")] = "auto",
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = None,
    memory: Annotated[str, typer.Option(help="What the device may hold: auto, or a size like 4GB.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's choice.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the JSON to a file.")] = None,
) -> None:
    """Measure a model on this machine: loading, latency, throughput, memory, and how near they are to a limit.

    The limit is measured too, between the calls that are compared with it: the model's matrix products alone, and
    reading its weights once. Everything takes turns, so that a change of the machine's speed meets all figures alike.
    """
    from slant.cli.drift import check_writable, write
    from slant.cli.output import show
    from slant.cli.progress import Progress

    tokens = None if lengths is None else numbers("--lengths", lengths)
    counts = numbers("--texts", texts)
    for length in tokens or ():
        if max_tokens is not None and length > max_tokens:
            raise SlantError(f"--lengths {length} is over max_tokens, {max_tokens}; give --max-tokens {length} too.")
    if output is not None:
        check_writable(output, source)
    settings = prompt_options(template, labels, max_tokens)

    start = time.perf_counter()
    import slant.engine  # noqa: F401

    imports = time.perf_counter() - start
    from slant.bench.card import terminal
    from slant.bench.measure import measure
    from slant.bench.texts import read
    from slant.model.checkpoint import resolve
    from slant.options import LoadOptions

    folder = resolve(checkpoint_path(model))
    table = {"text_column": text_column, "input_format": input_format, "encoding": encoding}
    own = None if source is None else read(source, rows=rows, **table)  # type: ignore[arg-type]
    options = LoadOptions(weights=weights, device=device, memory=memory, threads=threads, **settings)
    with Progress() as progress:
        report = measure(
            folder,
            options,
            lengths=tokens,
            counts=counts,
            texts=own,
            seconds=seconds,
            imports=imports,
            progress=progress,
        )
    line = json.dumps(report.as_json(), allow_nan=False)
    if output is not None:
        write(output, line + "\n")
    show(terminal(report))
    if json_output:
        print(line)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers above 0 with commas between, each once and sorted; raises SlantError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise SlantError(f"{option} takes whole numbers above 0 with commas between, like 128,512; not {text!r}.")
    return tuple(sorted({int(part) for part in parts}))
