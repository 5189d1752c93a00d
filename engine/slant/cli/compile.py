"""The command ``slant compile``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slant.cli.options import Labels, MaxTokens, Template, Weights, checkpoint_path, prompt_options
from slant.errors import SlantError

if TYPE_CHECKING:
    from rich.table import Table

    from slant.runtime.kernel_cache import Kernels
    from slant.runtime.tiers import Demand


def compile_ahead(
    model: Annotated[str, typer.Argument(help="A checkpoint or artifact folder, a hub id, or demo: the bundled one.")],
    target: Annotated[list[str], typer.Option(help="A GPU's architecture, like sm_90; again for more.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the kernels; it may hold others.")],
    at: Annotated[Path | None, typer.Option(metavar="PATH", help="Where DIR will be when it is used.")] = None,
    weights: Annotated[Weights, typer.Option(help="As for slant score; auto is bf16.")] = "auto",
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = 8192,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Computed tokens a batch, as for scoring.")] = None,
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
        check(name)
    demand = _demand(checkpoint_path(model), weights, template, labels, max_tokens, token_budget)
    output.mkdir(parents=True, exist_ok=True)
    output = output.resolve()
    settle(output, output)
    console = terminal()
    with Progress() as progress:
        found = {name: fill(output, name, demand, progress.of(name)) for name in targets}
    home = at.absolute() if at else output
    settle(output, home)
    for name, kernels in found.items():
        console.print(_table(name, kernels))
    console.print(f"to use them: TRITON_CACHE_DIR={home}", soft_wrap=True)


def _demand(
    model: str,
    weights: Weights,
    template: Path | None,
    labels: Path | None,
    max_tokens: int,
    token_budget: int | None,
) -> Demand:
    import torch

    from slant.artifact.manifest import NAME, Manifest
    from slant.artifact.recipe import NAMED, Recipe
    from slant.model.checkpoint import resolve
    from slant.model.config import ModelConfig
    from slant.prompt.prompt import Prompt
    from slant.runtime.classifier import TOKEN_BUDGETS
    from slant.runtime.tiers import Demand

    folder = resolve(model)
    config = ModelConfig.read(folder / "config.json")
    recipe = Recipe.named(weights) if weights in NAMED else None
    if (folder / NAME).exists():
        own = Manifest.read(folder).recipe
        if recipe not in (None, own):
            raise SlantError(f"{model} is quantized already, by a recipe other than {weights}; use weights=auto.")
        recipe = own
    prompt = Prompt.load(folder, **prompt_options(template, labels, max_tokens))
    return Demand(
        config=config,
        recipe=recipe,
        dtype=torch.float32 if weights == "fp32" else torch.bfloat16,
        device_type="cuda",
        answers=len(prompt.answer_ids),
        prefix_tokens=len(prompt.prefix_ids),
        max_tokens=max_tokens,
        token_budget=token_budget or TOKEN_BUDGETS["cuda"],
    )


def _table(target: str, kernels: Sequence[Kernels]) -> Table:
    from rich.table import Table

    from slant.cli.inspect_report import human

    total = sum(kernel.variants for kernel in kernels), sum(kernel.compiled for kernel in kernels)
    table = Table("kernel", title=target, show_footer=True)
    table.columns[0].footer = "all"
    size = human(sum(kernel.nbytes for kernel in kernels))
    for name, footer in {"variants": str(total[0]), "compiled now": str(total[1]), "machine code": size}.items():
        table.add_column(name, footer, justify="right")
    for kernel in kernels:
        table.add_row(kernel.name, str(kernel.variants), str(kernel.compiled), human(kernel.nbytes))
    return table
