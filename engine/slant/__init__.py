"""slant scores text with a fine-tuned language model in a single forward pass.

from slant import Engine
engine = Engine.load("path-or-hub-id")
engine.score(["text", ...]).probabilities
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CheckpointError", "Engine", "LoadOptions", "PromptError", "Score", "Scores", "SlantError", "TableError"]

if TYPE_CHECKING:
    from slant.engine import Engine
    from slant.errors import CheckpointError, PromptError, SlantError, TableError
    from slant.options import LoadOptions
    from slant.scores import Score, Scores


def __getattr__(name: str) -> Any:
    """Import on first use: ``slant --help`` should not wait for torch."""
    from importlib import import_module

    home = {"Engine": "engine", "LoadOptions": "options", "Score": "scores", "Scores": "scores"}.get(name, "errors")
    if name not in __all__:
        raise AttributeError(f"module 'slant' has no attribute {name!r}")
    return getattr(import_module(f"slant.{home}"), name)
