"""Where a model's tensors come from: a checkpoint, a checkpoint quantized while it is read, or a quantized artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from slant.artifact import MANIFEST
from slant.artifact.recipe import NAMED, Recipe
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint, resolve
from slant.model.config import ModelConfig
from slant.model.registry import read_config
from slant.model.weights import Tensors

if TYPE_CHECKING:
    from slant.artifact.reader import Artifact


class Source(Tensors, Protocol):
    """What a classifier is made of: its tensors, and ``folder`` with the tokenizer.

    ``recipe`` says which matrices are quantized. ``certificate`` and ``self_test`` are the JSON objects that an
    artifact stores. Each of the three may be None.
    """

    @property
    def folder(self) -> Path: ...
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

    For ``weights`` "hqq8" to "hqq2" the matrices of a checkpoint are quantized on ``device`` (the CPU if None) as they
    are read; an artifact has its own recipe and refuses another.
    """
    folder = resolve(model)
    if (folder / MANIFEST).exists():
        artifact = open_artifact(folder)
        if weights in NAMED and artifact.recipe != artifact.config.recipe(NAMED[weights]):
            raise SlantError(f"{model} is quantized already, by a recipe other than {weights}; leave weights at auto.")
        return artifact
    checkpoint = Checkpoint(folder)
    if weights in NAMED:
        from slant.model.hqq import QuantizedCheckpoint

        return QuantizedCheckpoint(checkpoint, checkpoint.config.recipe(NAMED[weights]), device or torch.device("cpu"))
    return checkpoint


def open_artifact(folder: str | Path) -> Artifact[ModelConfig]:
    """Open and verify a quantized artifact; raises CheckpointError naming the first file or tensor that is wrong."""
    from slant.artifact.reader import Artifact

    return Artifact(Path(folder), read_config)
