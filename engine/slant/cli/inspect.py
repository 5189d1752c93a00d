"""The command ``slant inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from slant.cli.options import Labels, MaxTokens, Template, checkpoint_path, prompt_options


def inspect(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or demo: the bundled one.")],
    template: Template = None,
    labels: Labels = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Show a checkpoint's architecture, tensors, prompt and memory need, without loading it."""
    from slant.cli.inspect_report import report
    from slant.cli.output import show
    from slant.options import LoadOptions

    show(report(checkpoint_path(model), LoadOptions(**prompt_options(template, labels, max_tokens))))
