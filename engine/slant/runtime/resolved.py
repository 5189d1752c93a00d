"""What load options come to on a device and a checkpoint, decided once.

Certificates and self-tests compare what was resolved: the same options may come to other arithmetic on another machine.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache

import torch

from slant.artifact.arithmetic import Arithmetic
from slant.artifact.recipe import NAMED, W4A8
from slant.cores import cores
from slant.errors import SlantError
from slant.options import LoadOptions, memory_bytes, token_limit
from slant_kernels.cpu import instruction_set, multiplies_bf16
from slant_kernels.fp8 import multiplies_fp8
from slant_kernels.launch import target
from slant_kernels.linear import EIGHT_BIT

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
INT8, FP8 = EIGHT_BIT
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 16384}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedOptions:
    """What really runs.

    ``weights`` is "bf16", "fp32", "int8", "fp8", "w4a8", "hqq8" ... or "artifact", whose recipe says the rest;
    ``dtype`` is what is computed in, ``memory`` the limit in bytes on the device that was given, None for what is free
    there. ``narrow``: dense matrices stay in bf16 though activations are fp32, because the processor does not multiply
    bf16; only the weights "bf16" round them to it, others are narrow where the file is.
    """

    weights: str
    dtype: torch.dtype
    device: torch.device
    max_tokens: int
    truncation: str
    token_budget: int
    memory: int | None = None
    deterministic: bool = False
    special_tokens: str = "text"
    narrow: bool = False

    @property
    def storage(self) -> torch.dtype:
        """What dense matrices are stored in."""
        return torch.bfloat16 if self.narrow else self.dtype

    @property
    def eight_bit(self) -> str | None:
        """How matrices are multiplied in 8 bits, a key of ``EIGHT_BIT``; None if they are not."""
        return self.weights if self.weights in EIGHT_BIT else None

    @property
    def w4a8(self) -> bool:
        """Whether quantized matrices are multiplied by activations of 8 bits."""
        return self.weights == W4A8

    @property
    def dtype_name(self) -> str:
        """As ``weights`` spells it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def arithmetic(self) -> Arithmetic:
        """The part that decides the scores; batch shapes and memory tiers move them by rounding at most."""
        device = self.device.type
        instructions = target(self.device) if device == "cuda" else instruction_set()
        return Arithmetic(
            self.weights,
            self.dtype_name,
            device,
            self.max_tokens,
            self.truncation,
            instructions,
            self.special_tokens,
        )


def resolve_options(
    options: LoadOptions, *, max_positions: int, is_artifact: bool, is_bf16: bool = False
) -> ResolvedOptions:
    """What options come to for a model, on this machine.

    max_positions: the tokens that the model was built for. is_bf16: its dense matrices are bf16 in its files. Raises
    SlantError for a device that is not there, weights that it cannot multiply, and too many tokens.
    """
    device = choose_device(options.device)
    dtype = choose_dtype(options.weights, device)
    rounded = options.weights == "bf16" and not is_artifact
    narrow = dtype == torch.float32 and options.weights != "fp32" and (is_bf16 or rounded)
    name = "bf16" if narrow or dtype == torch.bfloat16 else "fp32"
    weights = options.weights if options.weights in (*EIGHT_BIT, W4A8, *NAMED) else name
    return ResolvedOptions(
        weights="artifact" if is_artifact and weights not in (*EIGHT_BIT, W4A8) else weights,
        dtype=dtype,
        device=device,
        max_tokens=token_limit(options.max_tokens, max_positions),
        truncation=options.truncation,
        token_budget=TOKEN_BUDGETS[device.type] if options.token_budget is None else options.token_budget,
        memory=memory_bytes(options.memory),
        deterministic=options.deterministic,
        special_tokens=options.special_tokens,
        narrow=narrow,
    )


def use_threads(threads: int | None, *, everywhere: bool = False) -> int:
    """The number of CPU threads to compute with.

    One that is given is set in torch, for the whole process; else it is torch's, at most that of ``cores`` unless
    OMP_NUM_THREADS says otherwise. everywhere: set that one, too, for what is computed, or predicted, outside of an
    engine.
    """
    own = torch.get_num_threads()
    count = threads or (own if os.environ.get("OMP_NUM_THREADS") else min(own, cores().threads))
    if threads is not None or everywhere:
        torch.set_num_threads(count)
    if count > (most := cores().threads):
        _too_many(count, most)
    return count


@cache
def _too_many(threads: int, most: int) -> None:
    held = "1 core" if most == 1 else f"{most} cores"
    log.warning(f"{threads} CPU threads on {held} wait for each other; give {most} or fewer.")


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
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise SlantError(
            'a forked process cannot use a GPU that its parent used; start it with the method "spawn" instead.'
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SlantError("no CUDA device is available; use the device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SlantError(f"there is no {device}: the last of the CUDA devices is cuda:{torch.cuda.device_count() - 1}.")
    return device


def choose_dtype(weights: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in for the name of weights on a device; raises SlantError for 8 bits that it cannot do.

    It is fp32 for all weights on a processor that does not multiply bf16, which is several times slower there.
    """
    if weights in (INT8, W4A8) and device.type != "cpu":
        raise SlantError(f"the weights {weights} are for CPUs, and this is {device.type}; use fp8, hqq4 or auto.")
    if weights == FP8 and not multiplies_fp8(target(device)):
        found = target(device)
        raise SlantError(f"the weights fp8 need a GPU of sm_89 or newer, and this is {found}; use hqq8 or auto.")
    if weights == "fp32":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" or multiplies_bf16() else torch.float32
