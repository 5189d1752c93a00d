"""A Hugging Face folder or hub id -> configuration and a strict, lazy reader of its tensors.

Names are canonical here: ``layers.0.mlp.up_proj.weight``, ``embed_tokens.weight``, ``norm.weight``, ``lm_head.weight``,
whatever prefix the file uses. Opening reads only the headers; a tensor is read when it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from slant import tensor_files
from slant.errors import CheckpointError
from slant.model.registry import read_config
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, TensorInfo, headers

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Checkpoint:
    """An opened, checked checkpoint.

    ``tensors`` maps canonical names to what the files hold, ``skipped`` lists the vision and multi-token-prediction
    keys, and ``notes`` says in sentences what is unusual but understood.
    """

    def __init__(self, folder: Path) -> None:
        """Open a local folder. Raises CheckpointError naming the first thing that is wrong with it."""
        self.folder = folder
        self.config = read_config(folder)
        self.skipped: list[str] = []
        self.tensors = self._canonical(headers(_weight_files(folder)))
        self.head = HEAD if HEAD in self.tensors else EMBEDDING
        self._check()
        self.notes = tuple(self._notes())
        self.recipe = self.certificate = self.self_test = None  # an artifact has them

    @classmethod
    def open(cls, model: str | Path) -> Checkpoint:
        """Open a folder, or download a hub id such as ``owner/name`` into the Hugging Face cache first."""
        return cls(resolve(model))

    def read(self, name: str) -> Tensor:
        """One tensor as it is in the file (CPU, the file's dtype)."""
        return tensor_files.read(self.tensors[name])

    def quantized(self, name: str) -> None:
        """None: a checkpoint holds every tensor dense."""

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of a matrix, ``[len(ids), columns]`` in the file's dtype; no other row is read."""
        return tensor_files.rows(self.tensors[name], ids)

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of the language-model head, or of the embedding it is tied to."""
        return self.rows(self.head, ids)

    def _canonical(self, found: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
        ours = {key: info for key, info in found.items() if not re.match(self.config.skipped, key)}
        self.skipped = sorted(found.keys() - ours.keys())
        prefix = next((p for p in self.config.prefixes if any(key.startswith(p) for key in ours)), "")
        return {key.removeprefix(prefix): info for key, info in ours.items()}

    def _check(self) -> None:
        expected = self.config.shapes()
        if not self.config.tie_word_embeddings or HEAD in self.tensors:
            expected[HEAD] = expected[EMBEDDING]
        for name, shape in expected.items():
            info = self.tensors.get(name)
            if info is None:
                raise CheckpointError(
                    f"{self.folder} has no tensor {name}; the checkpoint is incomplete: save it again."
                )
            if info.shape != shape:
                raise CheckpointError(
                    f"{info.key} in {info.file} has the shape {list(info.shape)}; config.json asks for {list(shape)}."
                )
            if info.dtype not in ITEMSIZE:
                raise CheckpointError(
                    f"{info.key} in {info.file} is stored as {info.dtype}; give the {', '.join(ITEMSIZE)} checkpoint."
                )
        for name, info in self.tensors.items():
            if name not in expected:
                raise CheckpointError(
                    f"{info.file} has an unexpected tensor {info.key}; "
                    "if it is an adapter's, merge the adapter before saving the model."
                )

    def _notes(self) -> Iterator[str]:
        if self.head == HEAD and self.config.tie_word_embeddings:
            yield "config.json says the head is tied to the embedding, but lm_head.weight is in the file and is used."
        if self.skipped:
            yield f"{len(self.skipped)} vision and multi-token-prediction tensors are skipped."


def resolve(model: str | Path) -> Path:
    """The local folder of a model: itself, or the downloaded snapshot of a hub id."""
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the folder that holds config.json and the safetensors files.")
    if not _HUB_ID.fullmatch(str(model)):
        raise CheckpointError(f"{model} is neither a folder nor a hub id such as owner/name.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # the hub client raises a family of its own, network errors and OSError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{model} is no local folder and could not be fetched from the hub: {reason}") from None


def _weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a folder, each with the keys that the index promises, or None without an index."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files: dict[Path, set[str] | None] = {folder / name: set() for name in sorted(set(weight_map.values()))}
            for key, name in weight_map.items():
                files[folder / name].add(key)  # type: ignore[union-attr]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is damaged ({error}); download it again.") from None
        return files
    if (folder / "model.safetensors").exists():
        return {folder / "model.safetensors": None}
    other = next((p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pt", ".pth", ".gguf")), None)
    hint = f"; {other} is not read: save the model as safetensors." if other else "; save or download the model again."
    raise CheckpointError(f"{folder} has no model.safetensors{hint}")
