"""What decides the scores of a loaded model, as plain values by name: a job that goes on later compares them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from slant.errors import SlantError
from slant.files import first_with, sha256_of
from slant.model.source import Source
from slant.prompt.prompt import Prompt
from slant.runtime.resolved import ResolvedOptions


def model_files(source: Source) -> tuple[Path, ...]:
    """The files that decide what a model answers, its prompt aside."""
    tokenizer = (first_with(source.folders, name) for name in ("tokenizer.json", "tokenizer_config.json"))
    return (*source.files, *(path for path in tokenizer if path.exists()))


def identity(
    files: Sequence[Path], prompt: Prompt, options: ResolvedOptions, stable_margin: float | None
) -> dict[str, object]:
    """Raises SlantError for a model that was not loaded from files."""
    if not files:
        raise SlantError(
            "a model without files cannot be known again, so a job with it cannot go on; load it from files."
        )
    arithmetic = options.arithmetic()
    digests = sorted(zip((path.name for path in files), sha256_of(files), strict=True))
    return {
        "model": hashlib.sha256(repr(digests).encode()).hexdigest(),
        "prompt": prompt.template_sha256,
        "labels": [[answer, name] for answer, name in prompt.labels.items()],
        "weights": arithmetic.weights,
        "dtype": arithmetic.dtype,
        "device": arithmetic.device,
        "instruction set": arithmetic.instruction_set,
        "max-tokens": arithmetic.max_tokens,
        "truncation": arithmetic.truncation,
        "special-tokens": arithmetic.special_tokens,
        "token-budget": options.token_budget,
        "deterministic": options.deterministic,
        "stable margin": stable_margin,
    }
