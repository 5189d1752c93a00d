"""The options that a model is loaded with, as a user gives them; everything that loads takes ``LoadOptions`` whole.

What they come to on a device and a checkpoint is ``slant.runtime.resolved``. Nothing here imports torch: the command
line reads its options before it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slant.errors import SlantError

WEIGHTS = ("auto", "bf16", "fp32", "int8", "hqq8", "hqq4", "hqq3", "hqq2")
TRUNCATIONS = ("head", "middle", "error")
SPECIAL_TOKENS = ("text", "parse")
MAX_TOKENS = 8192
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class LoadOptions:
    """What a user asks for; everything has a default.

    weights: "bf16", "fp32", or "auto": bf16 where the device multiplies it natively, fp32 elsewhere; an artifact is
    computed in it too. "hqq8", "hqq4", "hqq3" or "hqq2" quantizes a checkpoint while it loads. "int8" multiplies 8-bit
    weights by 8-bit activations, on CPUs that have VNNI: the fastest there, and the one that drifts.
    device: "cpu", "cuda", "cuda:1" ..., or "auto": cuda if there is one.
    template, labels: the prompt around "{article}" and {answer: name}; by default the folder's ``slant.json``, else the
    built-in ones.
    max_tokens: the longest prompt in tokens; by default 8192, or what the model was built for if that is less.
    truncation: what happens to a longer prompt: "head" keeps the article's beginning, "middle" its beginning and end,
    "error" makes it that row's error.
    special_tokens: what becomes of "<|im_end|>", "<think>" and their like in a text. "text" reads their characters, so
    that no text can end itself and answer in the model's place; "parse" makes the special tokens of them, as the model
    card's code does. Those of the template are special tokens in any case.
    token_budget: computed tokens a batch, padding included; the default suits the device.
    memory: what weights and batches may take on the device: bytes, a size like "4GB", or "auto": what a GPU has free,
    no limit on a CPU. The fastest tier of ``slant.runtime.memory`` that fits is taken; the libraries' own memory, some
    0.5 GB on a GPU, comes on top.
    deterministic: a text's scores are the same bits whatever else is in the call. Batches get a fixed number of rows,
    so that a call of few texts computes as much as one of many: give a small token_budget with it.
    threads: CPU threads of the whole process (torch's setting); unchanged if None.
    max_flip_rate: refuse a model without a certificate for what is loaded, or with one that measured a larger share of
    label flips.

    Raises SlantError for a value that no model and no device allows.
    """

    weights: str = "auto"
    device: str = "auto"
    template: str | None = None
    labels: Mapping[str, str] | None = None
    max_tokens: int | None = None
    truncation: str = "head"
    special_tokens: str = "text"
    token_budget: int | None = None
    memory: str | int | None = "auto"
    deterministic: bool = False
    threads: int | None = None
    max_flip_rate: float | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise SlantError(f"the weights {self.weights!r} are unknown; use one of {', '.join(WEIGHTS)}.")
        if self.truncation not in TRUNCATIONS:
            raise SlantError(f"the truncation {self.truncation!r} is unknown; use one of {', '.join(TRUNCATIONS)}.")
        if self.special_tokens not in SPECIAL_TOKENS:
            raise SlantError(f"special_tokens is {self.special_tokens!r}; use one of {', '.join(SPECIAL_TOKENS)}.")
        for name in ("max_tokens", "token_budget", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SlantError(f"{name} is {value!r}; give a whole number of at least 1.")
        memory_bytes(self.memory)


def token_limit(max_tokens: int | None, positions: int) -> int:
    """The longest prompt of a model that was built for so many positions; raises SlantError for one that is longer."""
    if max_tokens is not None and max_tokens > positions:
        raise SlantError(f"max_tokens is {max_tokens}, but the model was built for {positions}; use that or less.")
    return min(MAX_TOKENS, positions) if max_tokens is None else max_tokens


def memory_bytes(memory: str | int | None) -> int | None:
    """Bytes for a number of bytes or a size like "4GB" or "900 MiB"; None for None and "auto".

    Raises SlantError for anything else.
    """
    if memory is None or memory == "auto":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]?I?B|)", str(memory).strip().upper())
    unit = UNITS.get(found[2]) if found else None
    if isinstance(memory, bool) or found is None or unit is None or not int(float(found[1]) * unit):
        raise SlantError(f"memory is {memory!r}, which is no size; give auto, bytes, or one like 4GB or 900MB.")
    return int(float(found[1]) * unit)
