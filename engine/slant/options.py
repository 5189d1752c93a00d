"""How a model is loaded: the options that a user gives, and what they come to on a device and a checkpoint.

``LoadOptions`` is taken whole by everything that loads. ``resolve`` decides once what will really run, and certificates
and self-tests compare that: the same options may come to other arithmetic on another machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from slant.artifact.arithmetic import Arithmetic
from slant.artifact.recipe import NAMED
from slant.errors import SlantError
from slant_kernels.cpu import instruction_set, multiplies_bf16
from slant_kernels.int8 import can_multiply_int8
from slant_kernels.launch import target

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
INT8 = "int8"
WEIGHTS = ("auto", *DTYPES, INT8, *NAMED)
TRUNCATIONS = ("head", "middle", "error")
MAX_TOKENS = 8192
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 16384}
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
GPU_SHARE = 0.92  # of the free memory of a GPU: the rest is for libraries' workspaces and the allocator's gaps


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
        for name in ("max_tokens", "token_budget", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SlantError(f"{name} is {value!r}; give a whole number of at least 1.")
        memory_bytes(self.memory)

    def resolve(self, *, max_positions: int, is_artifact: bool) -> ResolvedOptions:
        """What these options come to for a model, on this machine.

        max_positions: the tokens that the model was built for. Raises SlantError for a device that is not there,
        weights that it cannot multiply, and too many tokens.
        """
        device = choose_device(self.device)
        dtype = choose_dtype(self.weights, device)
        name = next(name for name, found in DTYPES.items() if found == dtype)
        weights = self.weights if self.weights in (INT8, *NAMED) else name
        memory = memory_bytes(self.memory)
        if self.memory in (None, "auto") and device.type == "cuda":
            memory = int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
        return ResolvedOptions(
            weights="artifact" if is_artifact and weights != INT8 else weights,
            dtype=dtype,
            device=device,
            max_tokens=token_limit(self.max_tokens, max_positions),
            truncation=self.truncation,
            token_budget=TOKEN_BUDGETS[device.type] if self.token_budget is None else self.token_budget,
            memory=memory,
            deterministic=self.deterministic,
            max_flip_rate=self.max_flip_rate,
        )


@dataclass(frozen=True)
class ResolvedOptions:
    """What really runs.

    ``weights`` is "bf16", "fp32", "int8", "hqq8" ... or "artifact", whose recipe says the rest; ``dtype`` is what is
    computed in, ``memory`` the limit in bytes on the device, None for none.
    """

    weights: str
    dtype: torch.dtype
    device: torch.device
    max_tokens: int
    truncation: str
    token_budget: int
    memory: int | None = None
    deterministic: bool = False
    max_flip_rate: float | None = None

    @property
    def int8(self) -> bool:
        return self.weights == INT8

    @property
    def dtype_name(self) -> str:
        """As ``weights`` spells it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def arithmetic(self) -> Arithmetic:
        """The part that decides the scores; batch shapes and memory tiers move them by rounding at most."""
        device = self.device.type
        instructions = target(self.device) if device == "cuda" else instruction_set()
        return Arithmetic(self.weights, self.dtype_name, device, self.max_tokens, self.truncation, instructions)


def token_limit(max_tokens: int | None, positions: int) -> int:
    """The longest prompt of a model that was built for so many positions; raises SlantError for one that is longer."""
    if max_tokens is not None and max_tokens > positions:
        raise SlantError(f"max_tokens is {max_tokens}, but the model was built for {positions}; use that or less.")
    return min(MAX_TOKENS, positions) if max_tokens is None else max_tokens


def choose_device(name: str) -> torch.device:
    """The torch device for "auto" or a torch name; raises SlantError if there is none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SlantError(f"{name!r} is no device; use auto, cpu or cuda.") from None
    if device.type not in TOKEN_BUDGETS:
        raise SlantError(f"slant runs on cpu and cuda, not on {device.type}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SlantError("no CUDA device is available; use the device cpu.")
    return device


def choose_dtype(weights: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in for the name of weights on a device; raises SlantError for int8 that it cannot do."""
    if weights == INT8 and not can_multiply_int8(device):
        raise SlantError(f"the weights int8 need a CPU with VNNI, and this is {device.type}; use hqq8 or auto.")
    if weights in DTYPES:
        return DTYPES[weights]
    return torch.bfloat16 if device.type == "cuda" or multiplies_bf16() else torch.float32


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
