"""A base checkpoint with a LoRA adapter, seen as one checkpoint: its tensors are merged as they are read.

Numbers are those of the adapter attached by transformers. A matrix W is read as W + scaling * B A in fp32, so that it
is rounded once, to what it is computed in. The embedding and a head tied to it are adapted apart, as in the attached
adapter and unlike in peft's ``merge_and_unload`` (huggingface/peft#2018).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from slant import tensor_files
from slant.errors import CheckpointError
from slant.model.adapter import Adapter, LowRank
from slant.model.checkpoint import Checkpoint
from slant.model.names import canonical
from slant.model.rewrite import rewrite
from slant.tensor_files import EMBEDDING, HEAD, TensorInfo, headers


def _merged(added: LowRank, tensor: Tensor) -> Tensor:
    """The sum, or a CheckpointError: factors that are numbers may have a product that is none."""
    product = replace(added.b, key=f"{added.b.key} times {added.a.key}, added to the base,")
    return tensor_files.finite(tensor, product, advice="train the adapter again, at a lower learning rate")


class MergedCheckpoint:
    """To a model it is what a checkpoint is. ``folder`` is the adapter's."""

    def __init__(self, adapter: Adapter, base: Checkpoint) -> None:
        """Raises CheckpointError if the adapter has a tensor that the base has no place for."""
        self.adapter, self.base = adapter, base
        self.folder, self.folders = adapter.folder, (adapter.folder, base.folder)
        self.weights, self.config, self.skipped = base.weights, base.config, base.skipped
        tied = HEAD not in base.tensors
        changed = adapter.low_rank.keys() | adapter.saved.keys()
        self.head = EMBEDDING if tied and not changed & {HEAD, EMBEDDING} else HEAD
        self.tensors = {name: self._stored(name) for name in {**base.tensors, self.head: None}}
        self._check()
        self.notes = (*base.notes, *self._notes())
        self.recipe = self.certificate = self.self_test = None  # an artifact has them

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the tensors depend on."""
        return (*self.base.files, self.folder / "adapter_config.json", self.adapter.file)

    def read(self, name: str) -> Tensor:
        """One tensor (CPU): fp32 if the adapter adds to it, else as it is in its file."""
        tensor, added = tensor_files.read(self.tensors[name]), self.adapter.low_rank.get(name)
        return tensor if added is None else _merged(added, added.added_to(tensor))

    def as_stored(self, name: str) -> TensorInfo | None:
        """Where the tensor lies; None if the adapter adds to it."""
        return None if name in self.adapter.low_rank else self.tensors[name]

    def quantized(self, name: str) -> None:
        """None: every tensor is dense."""

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of a matrix, ``[len(ids), columns]``, as ``read`` has them; no other row is read."""
        rows, added = tensor_files.rows(self.tensors[name], ids), self.adapter.low_rank.get(name)
        return rows if added is None else _merged(added, added.added_to(rows, list(ids)))

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows ``ids`` of the language-model head, or of the embedding it is tied to."""
        return self.rows(self.head, ids)

    def save(self, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Write the merged tensors as a checkpoint, each in the base's dtype, with tokenizer and prompt.

        What the adapter adds to vision tensors is merged too. Raises CheckpointError for a part that the base lacks.
        """
        adapter = self.adapter
        stored = {canonical(key) for key in headers(self.base.weights.files)} | {HEAD}
        parts: dict[str, LowRank | TensorInfo] = {**adapter.low_rank, **adapter.saved, **adapter.bases}
        if missing := sorted(parts.keys() - stored):
            raise CheckpointError(f"{self.base.folder} has no {missing[0]}, which {adapter.file} changes.")

        def changed(name: str, tensor: Tensor) -> Tensor:
            if name not in parts:
                return tensor
            new = merged(name, tensor).to(tensor.dtype)
            if not new.isfinite().all():
                raise CheckpointError(
                    f"{name} of {self.base.folder} and {adapter.file} add up to values beyond {tensor.dtype}, in which "
                    "it is stored: score the adapter itself, or save the base in F32 or BF16."
                )
            return new

        def merged(name: str, tensor: Tensor) -> Tensor:
            if parts[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{adapter.file} is for a {name} of the shape {list(parts[name].shape)}, "
                    f"and {self.base.folder} has {list(tensor.shape)}."
                )
            if name in self.tensors:
                return self.read(name)
            if name in adapter.saved:
                return tensor_files.read(adapter.saved[name])
            return adapter.low_rank[name].added_to(tensor)

        rewrite(self.base, folder, changed, texts=self.folders, own_head=self.head == HEAD, progress=progress)

    def _stored(self, name: str) -> TensorInfo:
        """Where the tensor is that the adapter may add to; a head that is tied in the base is the embedding."""
        own = self.adapter.saved.get(name) or self.adapter.bases.get(name)
        return own or self.base.tensors[name if name in self.base.tensors else EMBEDDING]

    def _check(self) -> None:
        adapter, shapes = self.adapter, self.config.shapes()
        shapes[HEAD] = shapes[EMBEDDING]
        found = [(name, info, info.shape) for name, info in (*adapter.saved.items(), *adapter.bases.items())]
        for name, info, shape in [*found, *((name, low.b, low.shape) for name, low in adapter.low_rank.items())]:
            if re.match(self.config.skipped, name):
                continue
            if name not in shapes:
                raise CheckpointError(
                    f"{info.file} has a tensor {info.key}, for which {self.base.folder} has no place: "
                    "it is an adapter of another model."
                )
            if shape != shapes[name]:
                raise CheckpointError(
                    f"{info.key} in {info.file} is for the shape {list(shape)}, but {name} of {self.base.folder} has "
                    f"{list(shapes[name])}: it is an adapter of another model, or of another vocabulary."
                )

        if HEAD not in self.base.tensors:
            for info in adapter.bases.values():
                if not tensor_files.same(info, self.base.tensors[EMBEDDING]):
                    raise CheckpointError(
                        f"{info.key} in {info.file} is another embedding than that of {self.base.folder}, to which the "
                        "head is tied; merge the adapter with peft (merge_and_unload) and save the whole model."
                    )

    def _notes(self) -> Iterator[str]:
        ours = [name for name in self.adapter.low_rank | self.adapter.saved if name in self.tensors]
        yield f"an adapter of {self.base.folder}: {len(ours)} tensors are merged or replaced as they are read."
        if others := len(self.adapter.low_rank | self.adapter.saved) - len(ours):
            yield f"{others} tensors of the adapter are for vision and multi-token prediction and are skipped."
