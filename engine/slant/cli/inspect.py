"""The command ``slant inspect``."""

from __future__ import annotations

from slant.cli.options import Model, checkpoint_path, load_options, takes
from slant.options import LoadOptions


@takes(load_options, "template", "labels", "max_tokens")
def inspect(model: Model, options: LoadOptions) -> None:
    """Show a checkpoint's architecture, tensors, prompt and memory need, without loading it."""
    from slant.cli.inspect_report import report
    from slant.cli.output import show
    from slant.runtime.resolved import use_threads

    use_threads(options.threads, everywhere=True)  # the memory of batches depends on them
    show(report(checkpoint_path(model), options))
