"""The quantized artifact: a folder that is a whole classifier, without its source and without hqq.

artifact.json           the manifest: version, recipe, sizes and hashes of all other files
config.json             the source's, as it was; so are tokenizer.json and, if there was one, tokenizer_config.json
slant.json              template and labels
embedding.safetensors   the whole embedding
layers-00.safetensors   one layer: a quantized matrix as its name with .codes, .scales and .zeros, all else as it was
head.safetensors        the final norm and, where the head is not the embedding, the answers' rows of it

Opening reads every file once and compares its hash. Other files are refused, for they may be meant to be read, except
for hidden ones, README.md and LICENSE. ``slant_kernels.quantized`` describes the codes, ``slant.artifact.writer``
writes the folder. What architecture it is of, the opener says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from slant import tensor_files
from slant.artifact import MANIFEST
from slant.artifact.manifest import Manifest
from slant.artifact.recipe import Grid
from slant.cores import cores
from slant.errors import CheckpointError, RecipeError, shortened
from slant.files import sha256
from slant.stand_ins import refuse_stand_in
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, TensorInfo, finite, headers, opened
from slant_kernels.quantized import QuantizedMatrix, dequantize, layout, nbytes

TEXT_FILES = ("config.json", "tokenizer.json", "slant.json")
OPTIONAL_FILES = ("tokenizer_config.json",)
_BYSTANDERS = ("README.md", "LICENSE")
PARTS = ("codes", "scales", "zeros")


@dataclass(frozen=True, kw_only=True)
class QuantizedInfo(TensorInfo):
    """A quantized matrix: ``key`` is its name, under which its parts are stored, and ``shape`` is (N, K)."""

    grid: Grid

    @property
    def nbytes(self) -> int:
        return nbytes((self.shape[0], self.shape[1]), self.grid.bits, self.grid.group_size)


class Layout(Protocol):
    """What a model's configuration says of its tensors: canonical names with shapes, and the roles to quantize."""

    @property
    def quantizable(self) -> tuple[str, ...]: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...


Config = TypeVar("Config", bound=Layout)


class Artifact(Generic[Config]):
    """An opened, verified artifact; to a model it is what a checkpoint is.

    ``tensors`` maps canonical names to what is stored.
    """

    def __init__(self, folder: Path, read_config: Callable[[Path], Config]) -> None:
        """``read_config`` reads the folder's config.json, once its hash is checked.

        Raises CheckpointError naming the first file or tensor that is wrong.
        """
        self.folder, self.folders, self.files = folder, (folder,), (folder / MANIFEST,)
        self.manifest = Manifest.read(folder)
        self.recipe = self.manifest.recipe
        self._verify_files()
        self.config = read_config(folder)
        self._shapes = self.config.shapes()
        try:
            self.recipe.check(self._shapes, self.config.quantizable)
        except RecipeError as error:
            raise CheckpointError(f"{folder / MANIFEST} does not fit its config.json: {error}") from None
        shards = shard_tensors(self._shapes)
        self._complete({*shards, *TEXT_FILES})
        stored = headers({folder / shard: None for shard in shards})
        self.tensors = dict(self._canonical(stored))
        if stored:
            key, info = next(iter(stored.items()))
            raise CheckpointError(f"{info.file} has an unexpected tensor {key}; get the artifact again.")
        self.head = EMBEDDING if self.manifest.answers is None else HEAD
        self.skipped: list[str] = []
        version, device = (shortened(self.manifest.made[key]) for key in ("slant", "device"))
        self.notes = (f"quantized by slant {version} on {device}.",)

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        return self.manifest.certificate

    @property
    def self_test(self) -> Mapping[str, Any] | None:
        return self.manifest.self_test

    def quantized(self, name: str) -> QuantizedMatrix | None:
        """The stored matrix (CPU), or None if the recipe left it as it was."""
        info = self.tensors[name]
        if not isinstance(info, QuantizedInfo):
            return None
        with opened(info.file) as file:
            codes, scales, zeros = (file.get_tensor(f"{info.key}.{part}") for part in PARTS)
        for part, values in zip(PARTS[1:], (scales, zeros), strict=True):
            finite(values, TensorInfo(info.file, f"{info.key}.{part}", tuple(values.shape), "F16"))
        return QuantizedMatrix(
            codes, scales, zeros, info.grid.bits, info.grid.group_size, (info.shape[0], info.shape[1])
        )

    def as_stored(self, name: str) -> TensorInfo | None:
        """Where the tensor lies; None of what is quantized."""
        info = self.tensors[name]
        return None if isinstance(info, QuantizedInfo) else info

    def read(self, name: str) -> Tensor:
        """One tensor (CPU): dequantized to fp32, or as it is in the file."""
        matrix = self.quantized(name)
        if matrix is not None:
            return dequantize(matrix, torch.float32)
        return tensor_files.read(self.tensors[name])

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of a matrix that is not quantized, the embedding for one; no other row is read."""
        return tensor_files.rows(self.tensors[name], ids)

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows of the language-model head. Raises CheckpointError for ids whose rows were not kept."""
        kept = self.manifest.answers
        if kept is None:
            return self.rows(EMBEDDING, ids)
        if missing := [id for id in ids if id not in kept]:
            raise CheckpointError(
                f"{self.folder} keeps the head's rows of the tokens {list(kept)} only, not of {missing}: "
                "use its own labels, or quantize the checkpoint again with yours."
            )
        return self.rows(HEAD, [kept.index(id) for id in ids])

    def annotate(self, **objects: Mapping[str, Any]) -> None:
        """Store JSON objects, ``certificate`` or ``self_test``, in the manifest in place of what is there."""
        self.manifest = replace(self.manifest, **objects)  # type: ignore[arg-type]
        self.manifest.write(self.folder)

    def _verify_files(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.name not in {*self.manifest.files, MANIFEST, *_BYSTANDERS} and not path.name.startswith("."):
                raise CheckpointError(f"{path} does not belong to the artifact; remove it.")
        for name, info in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; get the artifact again.")
            if (size := path.stat().st_size) != info.bytes:
                refuse_stand_in(path)
                raise CheckpointError(f"{path} has {size} bytes instead of {info.bytes}; get the artifact again.")
        with ThreadPoolExecutor(cores().threads) as pool:
            digests = pool.map(sha256, [self.folder / name for name in self.manifest.files])
            for (name, info), digest in zip(self.manifest.files.items(), digests, strict=True):
                if digest != info.sha256:
                    raise CheckpointError(f"{self.folder / name} is not what was written; get the artifact again.")

    def _complete(self, expected: set[str]) -> None:
        listed = self.manifest.files.keys()
        if missing := sorted(expected - listed):
            raise CheckpointError(f"{self.folder / MANIFEST} does not list {missing[0]}; quantize again.")
        if unknown := sorted(listed - expected - set(OPTIONAL_FILES)):
            raise CheckpointError(
                f"{self.folder / MANIFEST} lists {unknown[0]}, no file of an artifact; quantize again."
            )

    def _canonical(self, stored: dict[str, TensorInfo]) -> Iterator[tuple[str, TensorInfo]]:
        """Take the expected tensors out of ``stored``, each with the shape and dtype it must have."""
        shapes = dict(self._shapes)
        if self.manifest.answers is not None:
            shapes[HEAD] = (len(self.manifest.answers), shapes[EMBEDDING][1])
        for name, shape in shapes.items():
            grid = self.recipe.grid(name)
            if grid is None:
                yield name, self._take(stored, name, shape, tuple(ITEMSIZE))
                continue
            codes, scales = layout((shape[0], shape[1]), grid.bits, grid.group_size)
            parts = zip(PARTS, (codes, scales, scales), ("U8", "F16", "F16"), strict=True)
            infos = [self._take(stored, f"{name}.{part}", size, (dtype,)) for part, size, dtype in parts]
            yield name, QuantizedInfo(infos[0].file, name, shape, f"{grid.bits}-bit/{grid.group_size}", grid=grid)

    def _take(
        self, stored: dict[str, TensorInfo], key: str, shape: tuple[int, ...], dtypes: tuple[str, ...]
    ) -> TensorInfo:
        info = stored.pop(key, None)
        if info is None:
            raise CheckpointError(f"{self.folder} has no tensor {key}; quantize again.")
        if info.shape != shape or info.dtype not in dtypes:
            raise CheckpointError(
                f"{key} in {info.file} is {info.dtype} {list(info.shape)}, not {' or '.join(dtypes)} {list(shape)}."
            )
        return info


def shard_tensors(names: Iterable[str]) -> dict[str, list[str]]:
    """An artifact's shards by file name: the canonical ``names`` of the tensors in each, without the head."""
    shards: dict[str, list[str]] = {"embedding.safetensors": [EMBEDDING]}
    for name in names:
        if name.startswith("layers."):
            shards.setdefault(f"layers-{int(name.split('.')[1]):02d}.safetensors", []).append(name)
    return shards | {"head.safetensors": ["norm.weight"]}
