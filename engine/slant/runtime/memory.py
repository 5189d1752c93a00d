"""Where a model's weights stay, chosen by the memory there is: the fastest tier whose predicted peak fits.

resident                    dense matrices, dequantized once
quantized                   quantized matrices as they are; a GPU has scratch memory to dequantize one at a time, a CPU
                            multiplies them in panels, as fast as dense ones, so that nothing else is resident there
quantized, host embedding   the same, with the embedding in page-locked host memory (GPUs only)
offload                     all weights in host memory; two blocks at a time on the device (GPUs only)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from slant.artifact.recipe import Recipe
from slant.errors import SlantError
from slant.model.config import ModelConfig
from slant.model.registry import activation_bytes
from slant.prompt.prompt import Prompt
from slant.runtime.resolved import FP8, ResolvedOptions
from slant.tensor_files import EMBEDDING
from slant_kernels import w4a8
from slant_kernels.linear import EIGHT_BIT
from slant_kernels.onednn import can_reorder
from slant_kernels.panels import can_pack, workspace
from slant_kernels.panels import nbytes as panel_bytes
from slant_kernels.quantized import nbytes as quantized_bytes

FP32 = 4
LEAST_BUDGET = 1024  # tokens a batch; below, launches cost more than arithmetic


@dataclass(frozen=True)
class MemoryRequest:
    """What decides the bytes of every tier."""

    config: ModelConfig
    recipe: Recipe | None
    dtype: torch.dtype
    device_type: str
    answers: int
    prefix_tokens: int
    max_tokens: int
    token_budget: int
    eight_bit: str | None = None
    storage: torch.dtype | None = None
    w4a8: bool = False

    @classmethod
    def of(cls, config: ModelConfig, recipe: Recipe | None, prompt: Prompt, options: ResolvedOptions) -> MemoryRequest:
        """The request of a model with its prompt; ``recipe`` says which matrices it stores quantized."""
        return cls(
            config,
            None if options.eight_bit else recipe,
            options.dtype,
            options.device.type,
            answers=len(prompt.answer_ids),
            prefix_tokens=len(prompt.prefix_ids),
            max_tokens=options.max_tokens,
            token_budget=options.token_budget,
            eight_bit=options.eight_bit,
            storage=options.storage,
            w4a8=options.w4a8,
        )

    @property
    def panels(self) -> bool:
        """Whether products can be in panels."""
        columns = {columns for _, columns in self.config.merged_shapes()}
        return can_pack(torch.device(self.device_type), *columns)

    @property
    def narrow(self) -> bool:
        """Whether dense matrices are bf16, and multiplied by fp32."""
        return self.storage not in (None, self.dtype)

    @property
    def dense_itemsize(self) -> int:
        """Bytes of a number in a dense matrix."""
        return (self.storage or self.dtype).itemsize


@dataclass(frozen=True)
class Tier:
    """Predicted bytes on the device: ``weights`` with the embedding if it is there, scratch memory included.

    ``quantized``: quantized matrices stay so. ``panels``: products are in panels, where matrices are quantized or bf16
    meets fp32. ``host_embedding``: the embedding stays in host memory. ``offload``: the blocks do, too.
    """

    name: str
    weights: int
    prefix: int
    activations: int
    token_budget: int
    quantized: bool = False
    panels: bool = False
    host_embedding: bool = False
    offload: bool = False

    @property
    def peak(self) -> int:
        return self.weights + self.prefix + self.activations


def tiers(request: MemoryRequest) -> Iterator[Tier]:
    """All tiers there are for a request, the fastest first, each with its token budget."""
    config, itemsize = request.config, request.dtype.itemsize
    embedding = math.prod(config.shapes()[EMBEDDING]) * request.dense_itemsize
    small = request.answers * config.hidden_size * FP32 + config.hidden_size * FP32
    layers = [layer_bytes(request, index, quantized=False) for index in range(config.num_hidden_layers)]
    prefix = config.prefix_bytes(itemsize, request.prefix_tokens)
    activations = _activations(request, request.token_budget)

    def tier(name: str, weights: int, held: int = prefix, **places: bool) -> Tier:
        return Tier(name, weights + small, held, activations, request.token_budget, panels=request.panels, **places)

    if request.recipe is None or not (request.panels or request.w4a8):
        yield tier("resident", sum(layers) + _plain(request) + embedding)
    scratch = 0
    if request.recipe is not None:
        layers = [layer_bytes(request, index, quantized=True) for index in range(config.num_hidden_layers)]
        in_place = request.panels or request.w4a8
        scratch = 0 if in_place else max(math.prod(shape) for shape in config.merged_shapes()) * itemsize
        if request.dtype == torch.float32 and can_reorder(request.dtype, torch.device(request.device_type)):
            scratch *= 2  # while oneDNN multiplies, the dense matrix is there in its layout too
        yield tier("quantized", sum(layers) + scratch + embedding, quantized=True)
    if request.device_type == "cuda":
        if request.recipe is not None:
            yield tier("quantized, host embedding", sum(layers) + scratch, quantized=True, host_embedding=True)
        waiting = request.token_budget * config.hidden_size * itemsize  # the group's residual streams
        places = {"quantized": True, "host_embedding": True, "offload": True}
        yield tier("offload", 2 * max(layers) + scratch + waiting, prefix // config.num_hidden_layers, **places)


def choose(request: MemoryRequest, limit: int | None, source: str = "") -> Tier:
    """The fastest tier within ``limit`` bytes, with the token budget lowered where that makes it fit.

    Raises SlantError naming the setting that needs least, if none fits. source: what sets a limit that nobody gave.
    """
    budgets = [request.token_budget]
    while budgets[-1] > LEAST_BUDGET:
        budgets.append(max(LEAST_BUDGET, budgets[-1] // 2))
    choices = list(zip(*(tiers(replace(request, token_budget=budget)) for budget in budgets), strict=True))
    if limit is None:
        return choices[0][0]
    for choice in choices:
        for tier in choice:
            if tier.peak <= limit:
                return tier
    least = min((choice[-1] for choice in choices), key=lambda tier: tier.peak)
    advice = "a smaller max_tokens" if request.recipe is not None else "the weights hqq4 or a smaller max_tokens"
    raise SlantError(
        f"{human(limit)}{source and f', {source},'} is not enough memory: the smallest configuration, {least.name}, "
        f"needs {human(least.peak)} for texts of {request.max_tokens} tokens; give {advice}."
    )


def layer_bytes(request: MemoryRequest, index: int, *, quantized: bool) -> int:
    """Bytes of one block's weights."""
    total = 0
    recipe = request.recipe if quantized else None
    for name, shape in request.config.layer_shapes(index).items():
        grid = None if recipe is None else recipe.grid(name)
        if len(shape) != 2:
            total += math.prod(shape) * FP32
        elif request.eight_bit and request.config.is_8_bit(name):
            total += EIGHT_BIT[request.eight_bit].nbytes((shape[0], shape[1]))
        elif grid is None:
            total += math.prod(shape) * request.dense_itemsize
        else:
            nbytes = panel_bytes if request.panels else quantized_bytes
            total += nbytes((shape[0], shape[1]), grid.bits, grid.group_size)
    return total


def _plain(request: MemoryRequest) -> int:
    """One matrix at a time in fp32, which the weights fp8 take on a CPU, and bf16 for fp32 without panels."""
    if not _in_fp32(request) and (request.panels or not request.narrow):
        return 0
    return max(math.prod(shape) for shape in request.config.merged_shapes()) * FP32


def _in_fp32(request: MemoryRequest) -> bool:
    return request.eight_bit == FP8 and request.device_type == "cpu"


def _activations(request: MemoryRequest, budget: int) -> int:
    """The larger of a batch of the token budget, in short texts, and the longest text alone."""
    itemsize = FP32 if _in_fp32(request) else request.dtype.itemsize
    length = min(128, request.max_tokens)
    shapes = ((max(1, budget // length), length), (1, request.max_tokens))
    sizes = (
        activation_bytes(request.config, itemsize, *shape, request.device_type)
        + _rows(request, *shape)
        + _workspace(request, math.prod(shape))
        for shape in shapes
    )
    return max(sizes)


def _workspace(request: MemoryRequest, tokens: int) -> int:
    """What a product in panels works in, or one of the weights w4a8."""
    if request.w4a8 and request.recipe is not None:
        shapes = request.config.merged_shapes()
        return max(w4a8.workspace(tokens, shape, request.dtype, panels=request.panels) for shape in shapes)
    if not request.panels or (request.recipe is None and not request.narrow):
        return 0
    return max(workspace(tokens, shape, request.dtype) for shape in request.config.merged_shapes())


def _rows(request: MemoryRequest, rows: int, length: int) -> int:
    """What a product of the weights fp8 takes on a CPU beside fp32: the codes of its rows, and those in fp32.

    Where activations are of 16 bits, they were counted as fp32, which is more.
    """
    if not _in_fp32(request) or request.dtype != torch.float32:
        return 0
    return rows * length * max(columns for _, columns in request.config.merged_shapes()) * (1 + FP32)


def described(options: ResolvedOptions, tier: Tier | None, reason: str = "") -> str:
    """In a line what runs, where its weights are, and why it was taken."""
    where = "offloaded to disk" if tier is None else f"{tier.name}, {human(tier.peak)} predicted"
    return f"weights {options.weights}, computed in {options.dtype_name}, {where}{reason and f': {reason}'}"


def human(size: float) -> str:
    """Bytes in decimal units: 1.23 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
