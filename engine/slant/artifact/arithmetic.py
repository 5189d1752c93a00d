"""The arithmetic behind a score: what a certificate was measured with, and what a loaded model computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from slant.errors import shortened


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What decides a model's scores beside its files.

    ``weights`` is "bf16", "fp32", "int8", "fp8", "w4a8", "hqq8" ... or "artifact" for an artifact's own recipe,
    ``dtype`` what is computed in, ``device`` "cpu" or "cuda". ``instruction_set`` is the processor's, such as
    "avx512bf16", or the GPU's, such as "sm_90": it is recorded and not compared, for it moves scores by rounding only.
    ``special_tokens`` is "parse" or "text", which is left out of what is stored.
    """

    weights: str
    dtype: str
    device: str
    max_tokens: Annotated[int, Field(ge=1)]
    truncation: str
    instruction_set: str
    special_tokens: str = "text"

    def differences(self, other: Arithmetic) -> str:
        """What ``other`` has otherwise, in words: "weights=int8 instead of artifact"; empty if nothing."""
        names = ("weights", "dtype", "device", "max_tokens", "truncation", "special_tokens")
        pairs = ((name, getattr(other, name), getattr(self, name)) for name in names)
        return ", ".join(f"{name}={new} instead of {shortened(str(old))}" for name, new, old in pairs if new != old)
