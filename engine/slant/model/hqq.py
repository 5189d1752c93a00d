"""Weights to quantized matrices, with hqq's half-quadratic solver.

The solver moves only the zeros; the scales stay those of each group's minimum and maximum. It is the one thing taken
from the hqq package: its files and module classes stay out.

The solver stops early by the mean error of all that it is given, a sum whose rounding depends on the number of threads.
So it is given pieces of a fixed size, each computed in one thread and several at a time: the result is the same on any
number of cores, and a piece that stays in the processor's cache takes half the time at the same error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from slant.artifact.recipe import Recipe
from slant.errors import CheckpointError, RecipeError
from slant.model.checkpoint import Checkpoint
from slant.model.merged import MergedCheckpoint
from slant.tensor_files import TensorInfo
from slant_kernels.quantized import QuantizedMatrix, dequantize, layout, pack

PIECE = {"cpu": 1 << 16, "cuda": 1 << 24}  # elements
QUIET = -3  # a power of two
FLAT = 1e-4  # hqq does not resolve a group whose weights lie within this


class QuantizedCheckpoint:
    """A checkpoint seen through a recipe: its matrices are quantized when they are read, and dequantized again.

    Gives the same numbers as the artifact that ``quantize_checkpoint`` writes from it on the same device.
    """

    def __init__(self, checkpoint: Checkpoint | MergedCheckpoint, recipe: Recipe, device: torch.device) -> None:
        recipe.check(checkpoint.tensors, checkpoint.config.quantizable)
        self.checkpoint, self.recipe, self.device = checkpoint, recipe, device
        self.folder, self.folders, self.files = checkpoint.folder, checkpoint.folders, checkpoint.files
        self.config, self.tensors = checkpoint.config, checkpoint.tensors
        self.head, self.skipped, self.notes = checkpoint.head, checkpoint.skipped, checkpoint.notes
        self.rows, self.head_rows = checkpoint.rows, checkpoint.head_rows
        self.certificate = self.self_test = None  # they are of an artifact's files

    def quantized(self, name: str) -> QuantizedMatrix | None:
        """The matrix in our layout, or None if the recipe leaves it as it is."""
        grid = self.recipe.grid(name)
        if grid is None:
            return None
        return quantize_matrix(self.checkpoint.read(name).to(self.device), grid.bits, grid.group_size, name)

    def as_stored(self, name: str) -> TensorInfo | None:
        """Where the tensor lies; None of what the recipe quantizes."""
        return None if self.recipe.grid(name) else self.checkpoint.as_stored(name)

    def read(self, name: str) -> Tensor:
        """One tensor: fp32 from its quantized form, or as it is in the file."""
        matrix = self.quantized(name)
        return self.checkpoint.read(name) if matrix is None else dequantize(matrix, torch.float32)


def quantize_matrix(weight: Tensor, bits: int, group_size: int, name: str = "the matrix") -> QuantizedMatrix:
    """weight ``[N, K]`` of any float dtype -> its quantized form on the same device, the same in every run there.

    If K is not a multiple of the group size, the last group is solved as the shorter group it is. Raises RecipeError,
    with ``name``, if the weights are not finite or too far from zero for fp16 zeros.
    """
    hqq = solver()
    rows, columns = weight.shape
    (_, _), (groups, _) = layout((rows, columns), bits, group_size)
    weight = weight.detach().float()
    largest = float(weight.abs().amax())
    if not math.isfinite(largest):
        raise CheckpointError(f"{name} holds NaN or infinity; save the checkpoint again.")
    # hqq clamps scales below 5e-5, which costs 8-bit codes of small weights a third more error: solve those enlarged.
    lift = 2.0 ** min(100, max(0, QUIET - math.frexp(largest)[1])) if largest else 1.0
    weight = weight * lift if lift > 1 else weight
    whole = columns - columns % group_size
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(rows, groups, dtype=torch.float32, device=weight.device)
    zeros = torch.empty_like(scales)
    for part, first in ((slice(0, whole), 0), (slice(whole, columns), groups - 1)):
        if part.start == part.stop:
            continue
        width = min(group_size, part.stop - part.start)
        solved = _solve(hqq, weight[:, part].reshape(-1, width), bits)
        codes[:, part] = solved[0].view(rows, -1)
        scales[:, first : first + solved[1].numel() // rows] = solved[1].view(rows, -1)
        zeros[:, first : first + solved[2].numel() // rows] = solved[2].view(rows, -1)
    scales, zeros = (scales / lift).T.half().contiguous(), (zeros - 2 ** (bits - 1)).T.half().contiguous()
    if not (scales.isfinite().all() and zeros.isfinite().all()):
        raise RecipeError(f"{name} has weights too large for fp16 scales and zeros; let the recipe leave it as it is.")
    return QuantizedMatrix(pack(codes, bits), scales, zeros, bits, group_size, (rows, columns))


def _solve(hqq: Any, groups: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """groups fp32 ``[n, width]`` -> codes uint8 ``[n, width]``, scales and hqq's zeros fp32 ``[n]``."""
    count, width = groups.shape
    where = groups.device
    codes = torch.empty(count, width, dtype=torch.uint8, device=where)
    scales = torch.empty(count, dtype=torch.float32, device=where)
    zeros = torch.empty_like(scales)

    def solve(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return hqq.quantize(
            piece, nbits=bits, group_size=width, optimize=True, axis=1, bitpack=False, device=str(where)
        )

    pieces = groups.split(max(1, PIECE[where.type] // width))
    start = 0
    with _one_thread_each() as workers, ThreadPoolExecutor(workers if where.type == "cpu" else 1) as pool:
        for piece, (found, meta) in zip(pieces, pool.map(solve, pieces), strict=True):
            part = slice(start, start := start + len(piece))
            codes[part] = found.view(-1, width)
            scales[part], zeros[part] = meta["scale"][:, 0], meta["zero"][:, 0]
    # hqq keeps a flat group's value in its zero. Around 2**(bits - 1) fp16 would lose it, so it goes into the scale.
    flat = groups.amax(1) - groups.amin(1) <= FLAT
    middle = 2 ** (bits - 1)
    codes[flat] = middle
    return codes, torch.where(flat, groups.mean(1), scales), torch.where(flat, middle - 1.0, zeros)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Operations run in one thread each; gives the number of threads there were for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def solver() -> Any:
    """hqq's Quantizer; raises CheckpointError if the package is missing, or the locale cannot read it."""
    try:
        from hqq.core.quantize import Quantizer
    except ImportError as error:
        raise CheckpointError(f"quantizing needs the hqq package ({error}): pip install hqq.") from None
    except UnicodeError as error:  # torch's compiler, which hqq imports, reads its own files in the locale's encoding
        raise CheckpointError(f"hqq cannot be imported in this locale ({error}): set PYTHONUTF8=1.") from None
    return Quantizer
