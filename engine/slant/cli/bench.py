"""The command ``slant bench``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from slant.cli.options import RUNNING, Model, checkpoint_path, load_options, reading, takes
from slant.errors import SlantError
from slant.options import LoadOptions, token_limit


@takes(reading, into="table")
@takes(load_options, *RUNNING)
def bench(
    model: Model,
    lengths: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Tokens of a single text's prompt. Default: 128,512,2048 or the nearest."),
    ] = None,
    texts: Annotated[str, typer.Option(metavar="N,N", help="Texts of the shortest length in one call.")] = "1,8,64",
    source: Annotated[
        str | None, typer.Option("--input", metavar="IN", help="Your own texts: CSV, JSON Lines, Parquet or lines.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="The first rows of IN that are taken, in one call.")] = 64,
    *,
    table: dict[str, Any],
    seconds: Annotated[
        float, typer.Option(min=0, help="For each workload, beyond the three calls that it has at least.")
    ] = 3.0,
    options: LoadOptions,
    json_output: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the JSON to a file.")] = None,
) -> None:
    """Measure a model on this machine: loading, latency, throughput, memory, and how near they are to a limit.

    The limit is measured too, between the calls that are compared with it: the model's matrix products alone, and
    reading its weights once. All are timed in turn, so that a change of the machine's speed affects all figures alike.
    """
    from slant.cli.output import check_writable, show, write
    from slant.cli.progress import Progress

    tokens = None if lengths is None else numbers("--lengths", lengths)
    counts = numbers("--texts", texts)
    check_writable([output], inputs=[source] if source else [])

    start = time.perf_counter()
    import slant.engine  # noqa: F401

    imports = time.perf_counter() - start
    from slant.bench.card import terminal
    from slant.bench.measure import measure
    from slant.bench.texts import read
    from slant.model.adapter import model_folders
    from slant.model.registry import read_config
    from slant.runtime.resolved import use_threads

    folder, *base = model_folders(checkpoint_path(model))
    limit = token_limit(options.max_tokens, read_config((base or [folder])[0]).max_position_embeddings)
    for length in tokens or ():
        if length > limit:
            raise SlantError(f"--lengths {length} is over --max-tokens {limit}; give --max-tokens {length} too.")
    own = None if source is None else read(source, rows=rows, **table)
    asked: dict[str, Any] = {"lengths": tokens, "counts": counts, "texts": own, "seconds": seconds}
    use_threads(options.threads, everywhere=True)  # what the engine is compared with has as many
    with Progress() as progress:
        report = measure(folder, options, **asked, imports=imports, progress=progress)
    line = json.dumps(report, allow_nan=False)
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
