"""Which weights "auto", "auto-8bit" and "auto-4bit" come to: of those that the name allows, the fastest that fit.

How fast they are, a committed table says, and no measurement at load: the same machine takes the same weights every
time, and so gives the same scores. "auto" is exact to the rounding of bf16; the others may drift as their weights do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from slant.artifact.recipe import QUANTIZING
from slant.errors import SlantError
from slant.model.source import Source, quantized_while_read
from slant.options import AUTO, LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.free_memory import memory_limit
from slant.runtime.memory import MemoryRequest, Tier, choose, human, tiers
from slant.runtime.resolved import FP8, ResolvedOptions, choose_device
from slant_kernels import native
from slant_kernels.cpu import instruction_set
from slant_kernels.launch import target

# The rate of matrix products beside that of "auto".
# CPU: medians of two runs in turns of 15, 512 rows by 7168 x 1024, on 2 threads of an AMD EPYC with AVX512-BF16,
# restricted as cpu.py says (2026-11-28, while others computed on it). CUDA: on an H200 (docs/gpu.md).
PRODUCTS: dict[str, dict[str, float]] = {
    "avx512bf16": {"int8": 1.8, "w4a8": 1.5, "hqq8": 0.98, "hqq4": 0.99},
    "avx512vnni": {"int8": 3.5, "w4a8": 2.5, "hqq8": 0.99, "hqq4": 0.99},
    "avx512": {"int8": 1.55, "w4a8": 2.1, "hqq8": 0.99, "hqq4": 0.99},
    "avx2": {"int8": 1.5, "w4a8": 1.95, "hqq8": 0.99, "hqq4": 0.99},
    "cuda": {"fp8": 1.5},
}
SHARE = 0.85  # of a forward's time that is products with "auto"
UNKNOWN = 0.5  # of weights that were not measured: they are taken for their memory only
PACKED, OFFLOADED = 0.95, 0.5  # of the resident speed, where a tier dequantizes as it multiplies, or copies blocks

Resolve = Callable[[Source, LoadOptions], ResolvedOptions]


@dataclass(frozen=True)
class Alternative:
    """``weights`` as an option, what runs with them, and how fast that is beside "auto" with everything resident.

    ``tier`` is the fastest that fits, None if none does; ``least`` is the smallest prediction of any tier in bytes.
    """

    weights: str
    options: ResolvedOptions
    request: MemoryRequest
    tier: Tier | None
    least: int

    @property
    def speed(self) -> float:
        places = (self.tier is not None and self.tier.offload, OFFLOADED), (self.stays_quantized, PACKED)
        return next((share for true, share in places if true), 1.0) * speed(self.weights, self.options.device)

    @property
    def stays_quantized(self) -> bool:
        """Whether the tier dequantizes what it multiplies."""
        tier = self.tier
        return tier is not None and tier.quantized and not tier.panels and self.request.recipe is not None


@dataclass(frozen=True)
class Choice:
    """What is loaded, and why, as the rest of a sentence."""

    source: Source
    options: ResolvedOptions
    reason: str


def decide(source: Source, prompt: Prompt, options: LoadOptions, resolve: Resolve) -> Choice:
    """What the weights of ``options``, one of ``AUTO``, come to. Raises SlantError if nothing fits the memory.

    source: not quantized while it is read; an artifact is computed as it is.
    """
    found = sorted(alternatives(source, prompt, options, resolve), key=lambda one: -one.speed)
    fitting = [one for one in found if one.tier is not None]
    if not fitting:
        least = min(found, key=lambda one: one.least)
        try:
            choose(least.request, *memory_limit(least.options))
        except SlantError as error:
            raise SlantError(
                f"of the weights that {options.weights} allows {least.weights} take least: {error}"
            ) from None
    best = fitting[0]
    limit, _ = memory_limit(best.options)
    within = "" if limit is None else f" within {human(limit)}"
    names = ", ".join(one.weights for one in found)
    reason = f"the fastest of {names}{within}" if len(found) > 1 else f"all that {options.weights} allows here"
    if missed := [f"{one.weights} needs {human(one.least)}" for one in found if one.tier is None]:
        reason += f"; {', '.join(missed)}"
    where = choose_device(options.device)
    return Choice(quantized_while_read(source, best.weights, where), best.options, reason)


def alternatives(source: Source, prompt: Prompt, options: LoadOptions, resolve: Resolve) -> Iterator[Alternative]:
    """All that the weights of ``options`` allow, and that this device computes."""
    device = choose_device(options.device)
    for weights in allowed(source, options.weights, device):
        made = resolve(source, replace(options, weights=weights))
        recipe = source.recipe or (source.config.recipe(QUANTIZING[weights]) if weights in QUANTIZING else None)
        request = MemoryRequest.of(source.config, recipe, prompt, made)
        try:
            tier = choose(request, *memory_limit(made))
        except SlantError:
            tier = None
        smallest = replace(request, token_budget=min(request.token_budget, 1024))
        yield Alternative(weights, made, request, tier, min(one.peak for one in tiers(smallest)))


def allowed(source: Source, name: str, device: torch.device) -> list[str]:
    """The weights that a name of ``AUTO`` may come to for a source on a device."""
    if source.recipe is not None:
        return ["auto"]
    there = [weights for weights in AUTO[name] if weights not in QUANTIZING or find_spec("hqq") is not None]
    if device.type == "cpu":
        return ["auto", *(weights for weights in there if weights != FP8)]
    from slant_kernels.fp8 import multiplies_fp8

    fits = {"int8": False, "w4a8": False, FP8: multiplies_fp8(target(device))}
    return ["auto", *(weights for weights in there if fits.get(weights, True))]


def speed(weights: str, device: torch.device) -> float:
    """Tokens a second beside "auto" with everything resident."""
    rate = PRODUCTS.get(row(device), {}).get(weights, 1.0 if weights == "auto" else UNKNOWN)
    return 1 / (1 - SHARE + SHARE / rate)


def row(device: torch.device) -> str:
    """The row of ``PRODUCTS`` for a device; none where the CPU ops are not compiled."""
    if device.type != "cpu":
        return device.type
    name = instruction_set() if native.level() else ""
    return "avx512bf16" if name == "amx" else name
