"""The command ``slant compile``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slant.cli.options import Model, checkpoint_path, load_options, takes
from slant.errors import SlantError
from slant.options import AUTO, LoadOptions

if TYPE_CHECKING:
    from rich.table import Table

    from slant.runtime.kernel_cache import Kernels
    from slant.runtime.memory import MemoryRequest


@takes(load_options, "weights", "template", "labels", "max_tokens", "token_budget")
def compile_ahead(
    model: Model,
    target: Annotated[list[str], typer.Option(help="A GPU's architecture, like sm_90; again for more.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the kernels; it may hold others.")],
    at: Annotated[Path | None, typer.Option(metavar="PATH", help="Where DIR will be when it is used.")] = None,
    *,
    options: LoadOptions,
) -> None:
    """Compile a model's GPU kernels ahead, on any Linux machine and without a GPU.

    With TRITON_CACHE_DIR=DIR a machine with such a GPU, the same slant and the same Triton compiles none of them. Its
    Triton still builds its own driver module there once, with a C compiler; keep DIR writable for that.
    """
    from slant.cli.output import terminal
    from slant.cli.progress import Progress
    from slant.runtime.kernel_cache import check, fill, settle

    targets = list(dict.fromkeys(target))
    for name in targets:
        check(name, options.weights)
    request = _request(checkpoint_path(model), options)
    output.mkdir(parents=True, exist_ok=True)
    output = output.resolve()
    settle(output, output)
    console = terminal()
    with Progress() as progress:
        found = {name: fill(output, name, request, progress.of(name)) for name in targets}
    home = at.absolute() if at else output
    settle(output, home)
    for name, kernels in found.items():
        console.print(_table(name, kernels))
    console.print(f"to use them: TRITON_CACHE_DIR={home}", soft_wrap=True)


def _request(model: str, options: LoadOptions) -> MemoryRequest:
    """What a GPU would be asked for, from the files that say it."""
    import torch

    from slant.artifact import MANIFEST
    from slant.artifact.manifest import Manifest
    from slant.artifact.recipe import NAMED
    from slant.model.adapter import model_folders
    from slant.model.registry import read_config
    from slant.options import token_limit
    from slant.prompt.prompt import Prompt
    from slant.runtime.memory import MemoryRequest
    from slant.runtime.resolved import TOKEN_BUDGETS, ResolvedOptions

    if AUTO.get(options.weights):
        raise SlantError(f"{options.weights} depends on the machine that scores; name the weights that it takes there.")
    folders = model_folders(model)
    folder, config = folders[0], read_config(folders[-1])
    recipe = config.recipe(NAMED[options.weights]) if options.weights in NAMED else None
    if (folder / MANIFEST).exists():
        own = Manifest.read(folder).recipe
        if recipe not in (None, own):
            raise SlantError(
                f"{model} is quantized already, by a recipe other than {options.weights}; leave weights at auto."
            )
        recipe = own
    resolved = ResolvedOptions(
        weights=options.weights,
        dtype=torch.float32 if options.weights == "fp32" else torch.bfloat16,
        device=torch.device("cuda"),
        max_tokens=token_limit(options.max_tokens, config.max_position_embeddings),
        truncation=options.truncation,
        token_budget=options.token_budget or TOKEN_BUDGETS["cuda"],
    )
    prompt = Prompt.load(folders, template=options.template, labels=options.labels, max_tokens=resolved.max_tokens)
    return MemoryRequest.of(config, recipe, prompt, resolved)


def _table(target: str, kernels: Sequence[Kernels]) -> Table:
    from slant.evaluation.formatting import terminal_table
    from slant.runtime.memory import human

    rows = [(kernel.name, str(kernel.variants), str(kernel.compiled), human(kernel.nbytes)) for kernel in kernels]
    table = terminal_table(("kernel", "variants", "compiled now", "machine code"), rows, title=target, show_footer=True)
    variants, compiled = sum(kernel.variants for kernel in kernels), sum(kernel.compiled for kernel in kernels)
    footers = "all", str(variants), str(compiled), human(sum(kernel.nbytes for kernel in kernels))
    for column, footer in zip(table.columns, footers, strict=True):
        column.footer = footer
    return table
