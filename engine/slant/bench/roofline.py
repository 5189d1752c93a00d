"""The roofline of a forward pass, measured: the time of its matrix products alone, and of reading its weights.

A static batch takes at least max(FLOPs / product rate, weight bytes / read rate) seconds. The FLOPs are those of the
texts' own tokens, so that padding is time lost. The product rate is that of the model's linear layers in their order,
with random matrices as cold in the caches as the model's, on as many tokens as the batch has. The read rate is the
better of a sum and a copy of as many bytes. Both vary with the machine's load: measure them in turn with the workload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slant.artifact.recipe import W4A8
from slant.bench.turns import Key, Run, Watch
from slant.model.config import ModelConfig
from slant.tensor_files import EMBEDDING
from slant_kernels.linear import EIGHT_BIT, linear
from slant_kernels.onednn import can_reorder, reorder
from slant_kernels.quantized import QuantizedMatrix, layout, pack
from slant_kernels.w4a8 import w4a8_matrix

COLD = 256 << 20  # bytes: more than any cache holds
TURN = 5e-3  # seconds that a sample of a limit takes at least: a clock is too coarse for less
LEAST = 1e-6  # seconds: the clock's resolution
# The model stacks the projections of one input into one product.
STACKS = {
    **dict.fromkeys(("in_proj_qkv", "in_proj_z"), "in_qkvz"),
    **dict.fromkeys(("in_proj_a", "in_proj_b"), "in_ab"),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "in_kvq"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up"),
}


# A matrix product: prepare a matrix ``[N, K]`` once, then multiply x ``[tokens, K]`` by the result.
Way = tuple[Callable[[Tensor], Any], Callable[[Tensor, Any], Tensor]]


def ways(dtype: torch.dtype, device: torch.device, *, eight_bit: str | None, w4a8: bool = False) -> dict[str, Way]:
    """The products whose fastest is the limit: torch's, and ours on weights as the engine prepares them.

    eight_bit: how the engine multiplies in 8 bits, if it does; the limit then does so for all matrices. w4a8: whether
    it multiplies quantized matrices so; the limit has random codes of 4 bits.
    """
    found: dict[str, Way] = {"torch": (lambda matrix: matrix, F.linear)}
    if can_reorder(dtype, device):
        found["onednn"] = reorder, linear
    if eight_bit:
        found[eight_bit] = EIGHT_BIT[eight_bit].matrix, linear
    if w4a8:
        found[W4A8] = _random_codes, linear
    return found


def _random_codes(matrix: Tensor) -> Any:
    """A quantized matrix of this shape; only the time of its product counts."""
    N, K = shape = matrix.shape[0], matrix.shape[1]
    (_, _), groups = layout(shape, 4, 64)
    scales = torch.ones(groups, dtype=torch.float16, device=matrix.device)
    codes = torch.randint(16, (N, K), dtype=torch.uint8, device=matrix.device)
    return w4a8_matrix(QuantizedMatrix(pack(codes, 4), scales, torch.zeros_like(scales), 4, 64, shape))


@dataclass(frozen=True)
class Executed:
    """A static batch that was run: its rows, tokens with and without padding, and FLOPs of the latter."""

    rows: int
    computed: int
    tokens: int
    flops: float


def best(rates: Mapping[Key, float], kind: str) -> tuple[str, float]:
    """The fastest way of a kind, and its rate, of rates by (kind, way)."""
    return max(((way, rate) for (of, way), rate in rates.items() if of == kind), key=lambda pair: pair[1])


def limit(batches: Sequence[Executed], flops: float, weight_bytes: float, read: float) -> dict[str, Any]:
    """The least seconds of a call at ``flops`` and ``read`` bytes a second, of products and of reads alone too.

    Each of its batches reads all weights.
    """
    products, reading = [batch.flops / flops for batch in batches], weight_bytes / read
    alone = {"products_s": sum(products), "reads_s": reading * len(batches)}
    bound = "products" if alone["products_s"] >= alone["reads_s"] else "reads"
    return {**alone, "seconds": sum(max(one, reading) for one in products), "bound": bound}


def text_flops(config: ModelConfig, length: int, start: int) -> float:
    """FLOPs of ``length`` tokens after a cached prefix of ``start`` tokens."""
    token, square = config.flops()
    return token * length + square * ((start + length) ** 2 - start**2)


def linear_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """(N, K) of the linear layers of the blocks in their order, projections of one input stacked."""
    stacks: dict[str, tuple[int, int]] = {}
    for name, shape in config.shapes().items():
        if len(shape) != 2 or name == EMBEDDING:
            continue
        module, part, _ = name.rsplit(".", 2)
        stack = f"{module}.{STACKS.get(part, part)}"
        stacks[stack] = (stacks.get(stack, (0, 0))[0] + shape[0], shape[1])
    return list(stacks.values())


class Products:
    """The linear layers with random weights: all, or the first that fill ``COLD`` bytes."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, ways: Mapping[str, Way]) -> None:
        self._dtype, self._device, self._ways = dtype, device, ways
        self.shapes = cold(linear_shapes(config), dtype.itemsize)
        generator = torch.Generator(device).manual_seed(0)
        self._matrices: dict[str, list[Any]] = {name: [] for name in ways}
        for shape in self.shapes:
            matrix = torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02, generator=generator)
            for name, (prepare, _) in ways.items():
                self._matrices[name].append(prepare(matrix))

    def flops(self, tokens: int) -> float:
        """FLOPs of one pass."""
        return 2.0 * tokens * sum(math.prod(shape) for shape in self.shapes)

    def run(self, way: str, tokens: int) -> Run:
        """One pass on ``tokens`` rows."""
        widths = {width for _, width in self.shapes}
        inputs = {width: torch.randn(tokens, width, dtype=self._dtype, device=self._device) for width in widths}
        pairs = [(inputs[width], matrix) for (_, width), matrix in zip(self.shapes, self._matrices[way], strict=True)]
        _, multiply = self._ways[way]

        def run() -> None:
            with torch.inference_mode():
                for x, matrix in pairs:
                    multiply(x, matrix)

        return replayed(run, self._device)


def cold(shapes: Sequence[tuple[int, int]], itemsize: int) -> list[tuple[int, int]]:
    """The first matrices, until they fill ``COLD`` bytes."""
    before = accumulate((math.prod(shape) * itemsize for shape in shapes), initial=0)
    return [shape for shape, size in zip(shapes, before, strict=False) if size < COLD]


def reads(size: int, device: torch.device) -> dict[str, tuple[Run, float]]:
    """Ways to read ``size`` bytes, at most ``COLD``, with the bytes that each moves."""
    source = torch.ones(max(1, min(size, COLD) // 4), dtype=torch.float32, device=device)
    target, size = torch.empty_like(source), source.nbytes
    copy = replayed(lambda: target.copy_(source), device)
    return {"sum": (replayed(source.sum, device), size), "copy": (copy, 2 * size)}


def kernels(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    tokens: Iterable[int],
    size: int,
    *,
    eight_bit: str | None,
    w4a8: bool = False,
) -> dict[Key, tuple[Run, float]]:
    """What measures the limits, by kind and way, with bytes or FLOPs of a run: reads, and products of ``tokens``."""
    known = ways(dtype, device, eight_bit=eight_bit, w4a8=w4a8)
    products = Products(config, dtype, device, known)
    found = {("read", way): run for way, run in reads(size, device).items()}
    for count in tokens:
        for way in known:
            found[f"products of {count}", way] = products.run(way, count), products.flops(count)
    return found


def repeated(run: Run, watch: Watch) -> tuple[Run, int, float]:
    """A call that repeats the run for about ``TURN`` seconds or more, the number of runs in it, and its seconds."""
    once = watch(run)
    if once < TURN:  # else the first is near enough to plan by
        once = watch(run)
    count = max(1, math.ceil(TURN / max(once, LEAST)))

    def several() -> None:
        for _ in range(count):
            run()

    return several, count, count * once


def replayed(run: Run, device: torch.device) -> Run:
    """On a GPU the run as a CUDA graph: a limit excludes the host's launches."""
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # a capture must not create library handles
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay
