"""What a ridge classifier reads of a text: a sentence embedding, or the hidden state that slant's digit head reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from baselines.data import digest
from baselines.packaged import Packaged
from slant.engine import Engine
from slant.errors import SlantError
from slant.runtime.execution import Head
from slant_kernels.norm import rms_norm

BATCH = 32
CHUNK = 256  # texts after which what was computed is written down

Read = Callable[[Sequence[str]], NDArray[np.float32]]
"""Features ``[n, d]`` of texts."""


@dataclass(frozen=True)
class Embedding:
    """Sentence embeddings by a packaged model, read up to its own limit. ``key`` is the same for the same ones only."""

    model: Packaged

    @property
    def key(self) -> str:
        return digest([self.model.model, self.model.versions()])

    def load(self) -> Read:
        embed = self.model.embedder()
        return lambda texts: embed(texts, BATCH)


@dataclass(frozen=True)
class FinalPosition:
    """The normed hidden state of a checkpoint at the prompt's last position: what its digit rows are multiplied by."""

    checkpoint: Path
    weights: str

    @property
    def key(self) -> str:
        return digest([fingerprint(self.checkpoint), self.weights])

    def load(self) -> Read:
        engine = Engine.load(self.checkpoint, weights=self.weights, device="cpu")
        return lambda texts: final_positions(engine, texts)


@dataclass(frozen=True)
class _FinalNorm(Head):
    """Stands where the digit head does, and gives the normed hidden state in place of logits."""

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        normed = rms_norm(hidden.float(), self.norm, self.eps)
        return normed, normed[:, :0]


def final_positions(engine: Engine, texts: Sequence[str]) -> NDArray[np.float32]:
    """float32 ``[n, hidden]``; raises SlantError for a text that cannot be read."""
    encoded = engine.prompt.encode(texts)
    if bad := next((row for row in encoded if row.error), None):
        raise SlantError(f"a text has no features: {bad.error}")
    head = engine.runner.head  # type: ignore[attr-defined]
    found = np.empty((len(texts), len(head.norm)), dtype=np.float32)
    for batch in engine.runner.run([row.ids for row in encoded], head=_FinalNorm(head.norm, head.rows, head.eps)):
        found[list(batch.rows)] = batch.logits
    return found


def fingerprint(folder: Path) -> list[Any]:
    """Names, sizes and times of a checkpoint's files: what says, without reading them, that they are the same."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [str(folder.resolve())] + [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


Features = Embedding | FinalPosition


class Kept:
    """Features by text, kept in a file of ``folder``, so that each text is read once, whatever task it is in."""

    def __init__(
        self, features: Features, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.features, self.progress = features, progress
        self.path = folder / f"{features.key}.npz"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[n, d]``; what is not in the file is computed and written into it."""
        keys = [digest(text) for text in texts]
        known = self._read()
        missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
        read = self.features.load() if missing else lambda texts: texts
        for start in range(0, len(missing), CHUNK):
            self.progress(start, len(missing))
            new, unread = zip(*missing[start : start + CHUNK], strict=True)
            known |= zip(new, read(list(unread)), strict=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part.npz")
            np.savez(part, keys=np.array(list(known)), features=np.stack(list(known.values())))
            part.replace(self.path)
        return np.stack([known[key] for key in keys])

    def _read(self) -> dict[str, NDArray[np.float32]]:
        if not self.path.exists():
            return {}
        with np.load(self.path) as arrays:
            return dict(zip(arrays["keys"].tolist(), arrays["features"], strict=True))
