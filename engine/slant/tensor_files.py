"""Safetensors files: what is in them, and single tensors or rows out of them, read when they are asked for.

A file is opened for each read: an open mapping would keep every page read so far in memory. What becomes a weight is
read by ``slant_kernels.read`` where that is possible, without a mapping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slant.errors import CheckpointError, reason
from slant.stand_ins import stand_in
from slant_kernels.panels import PanelMatrix
from slant_kernels.read import Stored, StoredRows, can_read, empty_panels, reads
from slant_kernels.read import read as read_stored

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
ITEMSIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}
SMALL = 1 << 16  # bytes that are read sooner than a file is mapped
LONGEST_NAME = 300  # characters; real ones have about 60, wrapped ones a few times that
# The canonical names that all architectures share.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: its file, its key there, its shape and its dtype as safetensors spells it.

    ``start`` is the byte of the file that it begins at, None where that is not known.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    start: int | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE.get(self.dtype, 0)


def read(info: TensorInfo) -> Tensor:
    """A tensor as it is in the file (CPU, the file's dtype). Raises CheckpointError if it holds NaN or infinity."""
    tensor = _read_small(info)
    if tensor is None:
        with opened(info.file) as file:
            tensor = file.get_tensor(info.key)
    return finite(tensor, info)


def _read_small(info: TensorInfo) -> Tensor | None:
    """A small tensor, read without mapping its file; None for others, and where that fails."""
    if info.start is None or info.dtype not in DTYPES or not 0 < info.nbytes <= SMALL:
        return None
    content = bytearray(info.nbytes)
    with suppress(OSError), info.file.open("rb", buffering=0) as file:
        file.seek(info.start)
        if file.readinto(content) == len(content):
            return torch.frombuffer(content, dtype=DTYPES[info.dtype]).view(info.shape)
    return None


def read_into(infos: Sequence[TensorInfo], targets: Sequence[Tensor]) -> list[bool]:
    """Read tensors into memory of the same shapes, in its dtype, in one pass; of each whether that was done.

    It is not done where ``read_stored`` cannot do it, and where a value is NaN or infinite in the dtype of its target.
    """
    places = list(zip(infos, targets, strict=True))
    wanted = {
        index: Stored(info.file, info.start, DTYPES[info.dtype], target)
        for index, (info, target) in enumerate(places)
        if info.start is not None and info.dtype in DTYPES and can_read(DTYPES[info.dtype], target)
    }
    with suppress(OSError):
        done = dict(zip(wanted, read_stored(list(wanted.values())), strict=True))
        return [done.get(index, False) for index in range(len(places))]
    return [False] * len(places)


def read_panels(infos: Sequence[TensorInfo]) -> PanelMatrix | None:
    """Matrices stacked by rows in panels, bf16; None where ``read_stored`` cannot do it, and for what is not finite."""
    rows, columns = [info.shape[0] for info in infos], infos[0].shape[1]
    matrix, first, wanted = empty_panels(sum(rows), columns), 0, []
    for info, count in zip(infos, rows, strict=True):
        if info.start is None or info.dtype not in DTYPES or not reads(DTYPES[info.dtype]):
            return None
        wanted.append(StoredRows(info.file, info.start, DTYPES[info.dtype], matrix, first, count))
        first += count
    with suppress(OSError):
        return matrix if all(read_stored(wanted)) else None
    return None


def rows(info: TensorInfo, ids: Sequence[int]) -> Tensor:
    """Rows ``ids`` of a stored matrix; no other row is read. Raises CheckpointError as ``read`` does."""
    with opened(info.file) as file:
        part = file.get_slice(info.key)
        found = torch.cat([part[row : row + 1] for row in ids])
    return finite(found, info, ids)


def finite(
    tensor: Tensor,
    info: TensorInfo,
    ids: Sequence[int] | None = None,
    problem: str = "NaN or infinite",
    advice: str = "download the checkpoint again, or take one from before its training diverged",
) -> Tensor:
    """The tensor, or a CheckpointError that names it if a value is NaN or infinite; ``ids``: of which rows it is."""
    # A sum is the cheapest pass over a tensor. It is finite only if every term is, but may overflow though they are.
    if tensor.is_meta or info.dtype not in ITEMSIZE or tensor.sum().isfinite() or tensor.isfinite().all():
        return tensor
    bad = (~tensor.isfinite()).nonzero()
    first = bad[0].tolist()
    if ids is not None:
        first[0] = ids[first[0]]
    which = f"{len(bad):,} of the {tensor.numel():,} values of {info.key} in {info.file}"
    raise CheckpointError(f"{which} are {problem}, the first at {first}; {advice}.")


def same(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two stored matrices have the same values, in whatever dtype; a part of them is in memory at a time."""
    with opened(one.file) as mine, opened(other.file) as theirs:
        pair = mine.get_slice(one.key), theirs.get_slice(other.key)
        parts = [(start, start + 4096) for start in range(0, one.shape[0], 4096)]
        return one.shape == other.shape and all(
            torch.equal(*(part[start:end].float() for part in pair)) for start, end in parts
        )


def headers(files: Mapping[Path, set[str] | None]) -> dict[str, TensorInfo]:
    """What safetensors files hold, by key; ``files`` maps each to the keys promised to be in it, if any are."""
    found: dict[str, TensorInfo] = {}
    for path, promised in files.items():
        with opened(path) as file:
            if (file.metadata() or {}).get("format") == "mlx":
                raise CheckpointError(
                    f"{path} was converted to MLX, which stores convolutions and norms otherwise; "
                    "give the checkpoint that it was converted from."
                )
            keys = set(file.keys())
            starts = _starts(path)
            missing = sorted((promised or set()) - keys)
            if missing:
                raise CheckpointError(f"{path} lacks {missing[0]}, which the index promises; download the shard again.")
            for key in sorted(keys):
                if len(key) > LONGEST_NAME:
                    raise CheckpointError(
                        f"{path} has a tensor whose name is of {len(key)} characters; download it again."
                    )
                part = file.get_slice(key)
                if key in found:
                    raise CheckpointError(
                        f"{key} is in {found[key].file} and in {path}; remove the shard that is not in use."
                    )
                found[key] = TensorInfo(path, key, tuple(part.get_shape()), part.get_dtype(), starts.get(key))
    return found


def _starts(path: Path) -> dict[str, int]:
    """The byte that each tensor begins at, of a file that safetensors has checked: it does not tell."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {key: 8 + size + info["data_offsets"][0] for key, info in header.items() if key != "__metadata__"}


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file, closed afterwards; what is wrong with it becomes a CheckpointError."""
    try:
        # safetensors makes slices on torch's default device, which may be any.
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} {_reason(path, error)}") from None


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, and what to do, as the rest of a sentence that its path begins."""
    try:
        if what := stand_in(path):
            return what
    except FileNotFoundError:
        return "does not exist, though the index names it; download the shard again."
    except OSError as problem:
        return f"cannot be read: {problem.strerror or problem}; check its permissions."
    return f"is truncated or damaged ({reason(error)}); download it again."
