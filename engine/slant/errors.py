"""Errors whose message is one clear sentence for a person, with what to do next."""

from __future__ import annotations


class SlantError(Exception):
    """A problem with a file, a model or an option: the whole call cannot go on.

    A problem with one text is never raised while other texts are scored: it becomes that row's ``error``.
    """


class OptionError(SlantError, ValueError):
    """An option has a value that it cannot have."""


class CheckpointError(SlantError):
    """The checkpoint is missing, damaged, incomplete or of another architecture."""


class PromptError(SlantError):
    """The template, the labels or the tokenizer do not fit together."""


class OutOfMemoryError(SlantError):
    """A device has too little memory at the moment: what was done stays, and another try may go on from it."""


class TableError(SlantError):
    """An input table cannot be read or an output table cannot be written."""


class RecipeError(SlantError):
    """A quantization recipe is damaged, or does not fit the model."""


def shortened(text: str, limit: int = 60) -> str:
    """Text of any length as a message shows it."""
    return text if len(text) <= limit else f"{text[: limit - 10]}... ({len(text)} characters)"


def reason(error: object) -> str:
    """What another library says of a problem, for the middle of a sentence: one line, without its full stop."""
    return shortened(" ".join(str(error).split()) or type(error).__name__, 300).removesuffix(".")
