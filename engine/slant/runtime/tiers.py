"""Where a model's weights stay, chosen by the memory there is: the fastest tier whose predicted peak fits.

resident        dense matrices, dequantized once
packed          quantized matrices as they are, and one scratch matrix
packed, host    the same with the embedding in pinned host memory (a GPU's)
streamed        everything on the host; two blocks at a time on the device (a GPU's)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from slant.artifact.recipe import Recipe
from slant.errors import SlantError
from slant.model.checkpoint import EMBEDDING, expected_shapes
from slant.model.config import ModelConfig
from slant.model.weights import is_int8
from slant.runtime.memory import FP32, activation_bytes, merged_shapes, prefix_bytes
from slant_kernels import int8, quantized

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SHARE = 0.92  # of the free memory of a GPU: the rest is for libraries' workspaces and the allocator's gaps
LEAST_BUDGET = 1024  # tokens a batch; below, launches cost more than arithmetic


@dataclass(frozen=True)
class Demand:
    """What is asked of a model: decides the bytes of every tier."""

    config: ModelConfig
    recipe: Recipe | None
    dtype: torch.dtype
    device_type: str
    answers: int
    prefix_tokens: int
    max_tokens: int
    token_budget: int
    int8: bool = False


@dataclass(frozen=True)
class Tier:
    """Predicted bytes on the device: ``weights`` with the embedding if it is there, scratch and slots in them."""

    name: str
    weights: int
    prefix: int
    activations: int
    token_budget: int

    @property
    def peak(self) -> int:
        return self.weights + self.prefix + self.activations

    @property
    def packed(self) -> bool:
        """Whether quantized matrices stay so."""
        return self.name != "resident"

    @property
    def host_embedding(self) -> bool:
        return self.name in ("packed, host", "streamed")

    @property
    def streamed(self) -> bool:
        return self.name == "streamed"


def tiers(demand: Demand) -> Iterator[Tier]:
    """All tiers there are for the demand, the fastest first, each with its token budget."""
    config, itemsize = demand.config, demand.dtype.itemsize
    shapes = expected_shapes(config)
    embedding = math.prod(shapes[EMBEDDING]) * itemsize
    small = demand.answers * config.hidden_size * FP32 + config.hidden_size * FP32
    layers = [layer_bytes(demand, index, packed=False) for index in range(config.num_hidden_layers)]
    prefix = prefix_bytes(config, itemsize, demand.prefix_tokens)
    activations = _activations(demand, demand.token_budget)

    def tier(name: str, weights: int, held: int = prefix) -> Tier:
        return Tier(name, weights + small, held, activations, demand.token_budget)

    yield tier("resident", sum(layers) + embedding)
    scratch = 0
    if demand.recipe is not None:
        layers = [layer_bytes(demand, index, packed=True) for index in range(config.num_hidden_layers)]
        scratch = max(math.prod(shape) for shape in merged_shapes(config)) * itemsize
        yield tier("packed", sum(layers) + scratch + embedding)
    if demand.device_type == "cuda":
        if demand.recipe is not None:
            yield tier("packed, host", sum(layers) + scratch)
        waiting = demand.token_budget * config.hidden_size * itemsize  # the group's residual streams
        yield tier("streamed", 2 * max(layers) + scratch + waiting, prefix // config.num_hidden_layers)


def choose(demand: Demand, limit: int | None) -> Tier:
    """The fastest tier within ``limit`` bytes, with the token budget lowered where that makes it fit.

    Raises SlantError naming the setting that needs least, if none fits.
    """
    budgets = [demand.token_budget]
    while budgets[-1] > LEAST_BUDGET:
        budgets.append(max(LEAST_BUDGET, budgets[-1] // 2))
    ways = list(zip(*(tiers(replace(demand, token_budget=budget)) for budget in budgets), strict=True))
    if limit is None:
        return ways[0][0]
    for way in ways:
        for tier in way:
            if tier.peak <= limit:
                return tier
    least = min((way[-1] for way in ways), key=lambda tier: tier.peak)
    advice = "a smaller max_tokens" if demand.recipe is not None else "weights=hqq4 or a smaller max_tokens"
    raise SlantError(
        f"{gigabytes(limit)} of memory are too little: the cheapest way, {least.name}, needs {gigabytes(least.peak)} "
        f"for texts of {demand.max_tokens} tokens; give {advice}."
    )


def layer_bytes(demand: Demand, index: int, *, packed: bool) -> int:
    """Bytes of one block's weights."""
    total = 0
    for name, shape in expected_shapes(demand.config).items():
        if not name.startswith(f"layers.{index}."):
            continue
        grid = demand.recipe.grid(name) if packed and demand.recipe is not None else None
        if len(shape) != 2:
            total += math.prod(shape) * FP32
        elif demand.int8 and is_int8(name):
            total += int8.nbytes((shape[0], shape[1]))
        elif grid is None:
            total += math.prod(shape) * demand.dtype.itemsize
        else:
            total += quantized.nbytes((shape[0], shape[1]), grid.bits, grid.group_size)
    return total


def _activations(demand: Demand, budget: int) -> int:
    """The larger of a batch of the token budget, in short texts, and the longest text alone."""
    length = min(128, demand.max_tokens)
    shapes = ((max(1, budget // length), length), (1, demand.max_tokens))
    return max(activation_bytes(demand.config, demand.dtype.itemsize, *shape, demand.device_type) for shape in shapes)


def memory_limit(memory: str | int | None, device: torch.device) -> int | None:
    """Bytes for a number of bytes, a size like "4GB" or "900 MiB", or "auto": what a GPU has free, no limit on a CPU.

    Raises SlantError for anything else.
    """
    if memory is None or memory == "auto":
        return int(torch.cuda.mem_get_info(device)[0] * SHARE) if device.type == "cuda" else None
    if isinstance(memory, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]?I?B|)", memory.strip().upper())
        if found is None or found[2] not in UNITS:
            raise SlantError(f"memory={memory!r} is no size; give auto, bytes, or one like 4GB or 900MB.")
        memory = int(float(found[1]) * UNITS[found[2]])
    if isinstance(memory, bool) or memory <= 0:
        raise SlantError(f"memory={memory!r} is no size; give auto, bytes, or one like 4GB or 900MB.")
    return memory


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
