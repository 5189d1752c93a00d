"""Every variant of a kernel that a model's batches can meet, compiled without computing anything.

A kernel is compiled once for each set of constants, types and alignments, and those follow from a batch's rows and
length by thresholds that the ops keep to themselves: few rows or many, classes of tokens, keys in one piece or several.
So the thresholds are looked for. A model of meta tensors is taken along two lines through the shapes of batches, on
which rows, lengths and tokens take all their classes, and where what it launches differs between two shapes, the one
halfway between is tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from slant.batching.buckets import bucket_lengths
from slant.batching.plan import MOST_ROWS
from slant.model.network import Model
from slant.model.outline import META, Outline, reduced
from slant.model.weights import Weights
from slant.runtime.execution import Eager, Head
from slant.runtime.memory import MemoryRequest
from slant_kernels.cross import collecting, rehearsing
from slant_kernels.merged import Scratch

Launches = tuple[str, ...]


class Shape(NamedTuple):
    """A batch, after the prefix or from the start; of no rows, it is the prefix itself."""

    rows: int
    length: int
    start: int


def compile_kernels(
    request: MemoryRequest,
    *,
    quantized: bool | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Any]:
    """Compile all kernels that ``request`` asks for and return them: Triton's CompiledKernel objects.

    They are for the current CUDA device or, within ``slant_kernels.cross.compiling``, for a GPU that is not there.
    ``quantized`` says whether quantized matrices stay so; None prepares for both. ``progress`` is called with (kernels
    done, all).
    """
    kinds = {False, request.recipe is not None} if quantized is None else {quantized}
    with rehearsing() as loading:
        for kind in kinds:
            _model(request, kind)
    outlines = [_outline(request, kind) for kind in kinds]
    needed: list[tuple[Eager, Shape]] = []
    launches = set(loading)
    for outline in outlines:
        for shape, names in rehearsed(outline, request):
            if not launches.issuperset(names):
                needed.append((outline, shape))
                launches.update(names)
    with collecting(lambda count: progress(count, len(launches))) as kernels:
        for kind in kinds:
            _model(request, kind)
        for outline, shape in needed:
            run(outline, shape)
    return kernels


def rehearsed(outline: Eager, request: MemoryRequest) -> Iterator[tuple[Shape, Launches]]:
    """Shapes of batches and what they launch: all there is, if each launch changes with rows and length one way."""
    for line in lines(request):
        found: dict[Shape, Launches] = {}

        def launched(shape: Shape, found: dict[Shape, Launches] = found) -> Launches:
            if shape not in found:
                with rehearsing() as names:
                    run(outline, shape)
                found[shape] = tuple(names)
            return found[shape]

        pieces = [line]
        while pieces:
            piece = pieces.pop()
            if launched(piece[0]) != launched(piece[-1]) and len(piece) > 2:
                middle = len(piece) // 2
                pieces += [piece[: middle + 1], piece[middle:]]
        yield from found.items()


def lines(request: MemoryRequest) -> Iterator[list[Shape]]:
    """The prefix; with and without it, the most rows of each length, and any number of rows of the shortest."""
    if request.prefix_tokens:
        yield [Shape(0, request.prefix_tokens, 0)]
    for start in sorted({0, request.prefix_tokens}):
        lengths = bucket_lengths(request.max_tokens - start)
        most = {length: max(1, min(request.token_budget // length, MOST_ROWS)) for length in lengths}
        yield [Shape(rows, length, start) for length, rows in most.items()]
        yield [Shape(rows, lengths[0], start) for rows in range(1, most[lengths[0]] + 1)]


@torch.inference_mode()
def run(outline: Eager, shape: Shape) -> None:
    """Take a batch through the model and the head, or make the prefix."""
    rows, length, start = shape
    if rows:
        ids, lengths = (torch.empty(size, dtype=torch.int64, device=META) for size in ((rows, length), (rows,)))
        outline.compute(ids, lengths, start)
    else:
        outline.model.prefix(torch.empty(length, dtype=torch.int64, device=META))


def _model(request: MemoryRequest, quantized: bool) -> Model:
    """A model of meta tensors with one block of each kind; to load it in fp8 launches kernels too."""
    config, recipe = reduced(request.config, request.recipe if quantized else None)
    scratch = Scratch(request.dtype, META) if quantized else None
    weights = Weights(Outline(config, recipe), request.dtype, META, scratch, eight_bit=request.eight_bit)
    return Model(weights, request.max_tokens)


def _outline(request: MemoryRequest, quantized: bool) -> Eager:
    """Such a model and its head, with the state after the prefix."""
    with rehearsing():
        model = _model(request, quantized)
    config = model.config
    norm = torch.empty(config.hidden_size, dtype=torch.float32, device=META)
    rows = torch.empty(request.answers, config.hidden_size, dtype=torch.float32, device=META)
    prefix = None
    if request.prefix_tokens:
        with rehearsing(), torch.inference_mode():
            prefix = model.prefix(torch.empty(request.prefix_tokens, dtype=torch.int64, device=META))
    return Eager(model, Head(norm, rows, config.rms_norm_eps), prefix)
