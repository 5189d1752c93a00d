"""Where a model's tensors come from: a checkpoint, a checkpoint quantized while it is read, or a quantized artifact."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from slant.artifact import MANIFEST
from slant.artifact.recipe import NAMED, QUANTIZING, Recipe
from slant.errors import CheckpointError, SlantError
from slant.model.adapter import Adapter, model_folders, no_base
from slant.model.checkpoint import Checkpoint
from slant.model.config import ModelConfig
from slant.model.merged import MergedCheckpoint
from slant.model.registry import read_config
from slant.model.weights import Tensors

if TYPE_CHECKING:
    from slant.artifact.reader import Artifact

log = logging.getLogger(__name__)
Dense = Checkpoint | MergedCheckpoint


class Source(Tensors, Protocol):
    """What a classifier is made of: its tensors, and the ``folders`` of tokenizer and prompt; ``folder`` is the first.

    ``files`` decide the tensors; an artifact's manifest stands for all of its own.
    ``recipe`` says which matrices are quantized. ``certificate`` and ``self_test`` are the JSON objects that an
    artifact stores. Each of the three may be None.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def folders(self) -> tuple[Path, ...]: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def head(self) -> str: ...
    @property
    def skipped(self) -> list[str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def recipe(self) -> Recipe | None: ...
    @property
    def certificate(self) -> Mapping[str, Any] | None: ...
    @property
    def self_test(self) -> Mapping[str, Any] | None: ...
    def head_rows(self, ids: Sequence[int]) -> Tensor: ...


def open_model(model: str | Path, weights: str = "auto", device: torch.device | None = None) -> Source:
    """Open a folder or hub id of either kind.

    For ``weights`` "hqq8" to "hqq2" and "w4a8" the matrices of a checkpoint are quantized on ``device`` (the CPU if
    None) as they are read; an artifact has its own recipe, and refuses another that is named.
    """
    folders = model_folders(model)
    if (folders[0] / MANIFEST).exists():
        artifact = open_artifact(folders[0])
        if weights in NAMED and artifact.recipe != artifact.config.recipe(NAMED[weights]):
            raise SlantError(f"{model} is quantized already, by a recipe other than {weights}; leave weights at auto.")
        return artifact
    return quantized_while_read(open_folders(folders), weights, device)


def quantized_while_read(source: Source, weights: str, device: torch.device | None = None) -> Source:
    """A checkpoint, quantized as ``open_model`` says if the weights are so; anything else as it is."""
    if weights not in QUANTIZING or not isinstance(source, Dense):
        return source
    from slant.model.hqq import QuantizedCheckpoint

    return QuantizedCheckpoint(source, source.config.recipe(QUANTIZING[weights]), device or torch.device("cpu"))


def open_checkpoint(model: str | Path, base: str | Path | None = None) -> Dense:
    """Open what is not quantized: a checkpoint, or an adapter merged with its base, which ``base`` replaces.

    Raises CheckpointError for an artifact.
    """
    folders = model_folders(model, base)
    if any((folder / MANIFEST).exists() for folder in folders):
        raise CheckpointError(f"{model} is quantized already; give the checkpoint that it was made from.")
    return open_folders(folders)


def open_folders(folders: tuple[Path, ...]) -> Dense:
    """A checkpoint's folder, or an adapter's and that of its base. Logs which files were chosen."""
    checkpoint = _open(*folders)
    for note in checkpoint.weights.notes:
        log.warning("%s: %s", folders[-1], note)
    return checkpoint


def _open(folder: Path, base: Path | None = None) -> Dense:
    if base is None:
        return Checkpoint(folder)
    adapter = Adapter(folder)
    try:
        checkpoint = Checkpoint(base)
    except CheckpointError as error:
        raise no_base(folder, base, error) from None
    return MergedCheckpoint(adapter, checkpoint)


def open_artifact(folder: str | Path) -> Artifact[ModelConfig]:
    """Open and verify a quantized artifact; raises CheckpointError naming the first file or tensor that is wrong."""
    from slant.artifact.reader import Artifact

    return Artifact(Path(folder), read_config)
