"""A Hugging Face folder or hub id -> configuration and a strict, lazy reader of its tensors.

Names are canonical here: ``layers.0.mlp.up_proj.weight``, ``embed_tokens.weight``, ``norm.weight``, ``lm_head.weight``,
whatever prefix the file uses. Opening reads only the headers; a tensor is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from slant import tensor_files
from slant.errors import CheckpointError
from slant.model.folder import CONFIG, is_adapter, resolve, weight_files
from slant.model.names import name_tensors, prefix_notes
from slant.model.registry import read_config
from slant.tensor_files import EMBEDDING, HEAD, ITEMSIZE, TensorInfo, headers


class Checkpoint:
    """An opened, checked checkpoint.

    ``tensors`` maps canonical names to what the files hold, ``skipped`` lists the vision and multi-token-prediction
    keys, and ``notes`` says in sentences what is unusual but understood.
    """

    def __init__(self, folder: Path) -> None:
        """Open a local folder. Raises CheckpointError naming the first thing that is wrong with it."""
        self.folder, self.folders = folder, (folder,)
        if is_adapter(folder):
            raise CheckpointError(
                f"{folder} is an adapter, without the weights of its base; merge it first: slant merge {folder} OUT."
            )
        self.weights = weight_files(folder)
        self.config = read_config(folder)
        found = headers(self.weights.files)
        known = {*self.config.shapes(), HEAD}
        self.tensors, self.skipped = name_tensors(found.values(), known, self.config.skipped)
        self.head = HEAD if HEAD in self.tensors else EMBEDDING
        self._check()
        self.notes = tuple(self._notes())
        self.recipe = self.certificate = self.self_test = None  # an artifact has them

    @classmethod
    def open(cls, model: str | Path) -> Checkpoint:
        """Open a folder, or download a hub id such as ``owner/name`` into the Hugging Face cache first."""
        return cls(resolve(model))

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the tensors depend on."""
        return (self.folder / CONFIG, *self.weights.files)

    def read(self, name: str) -> Tensor:
        """One tensor as it is in the file (CPU, the file's dtype)."""
        return tensor_files.read(self.tensors[name])

    def as_stored(self, name: str) -> TensorInfo:
        """Where the tensor lies."""
        return self.tensors[name]

    def quantized(self, name: str) -> None:
        """None: a checkpoint holds every tensor dense."""

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of a matrix, ``[len(ids), columns]`` in the file's dtype; no other row is read."""
        return tensor_files.rows(self.tensors[name], ids)

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of the language-model head, or of the embedding it is tied to."""
        return self.rows(self.head, ids)

    def _check(self) -> None:
        expected = self.config.shapes()
        if not self.config.tie_word_embeddings or HEAD in self.tensors:
            expected[HEAD] = expected[EMBEDDING]
        if missing := [name for name in expected if name not in self.tensors]:
            some = ", ".join(missing[:3]) + (" ..." if missing[3:] else "")
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} of {len(expected)} tensors ({some}); "
                "the checkpoint is incomplete: download or save it again."
            )
        for name, shape in expected.items():
            info = self.tensors[name]
            if info.shape != shape:
                hint = _hint(info.shape, shape)
                raise CheckpointError(
                    f"{info.key} in {info.file} has the shape {list(info.shape)}; "
                    f"config.json asks for {list(shape)}.{hint}"
                )
            if info.dtype not in ITEMSIZE:
                raise CheckpointError(
                    f"{info.key} in {info.file} is stored as {info.dtype}; give the {', '.join(ITEMSIZE)} checkpoint."
                )

    def _notes(self) -> Iterator[str]:
        yield from self.weights.notes
        yield from prefix_notes(self.tensors)
        if self.head == HEAD and self.config.tie_word_embeddings:
            yield "config.json says the head is tied to the embedding, but lm_head.weight is in the file and is used."
        if self.skipped:
            yield f"{len(self.skipped)} vision and multi-token-prediction tensors are skipped."


def _hint(found: tuple[int, ...], asked: tuple[int, ...]) -> str:
    """Who stores a tensor of another shape, as a sentence."""
    if 0 in found:
        return " DeepSpeed's ZeRO-3 leaves it so; gather the weights (zero_to_fp32.py) and save them again."
    if len(asked) == 3 and found == (asked[0], asked[2], asked[1]):
        return " MLX stores it so; give the checkpoint of transformers."
    return ""
