"""Writes an artifact's folder, shard by shard, so that a stopped run goes on where it was.

Work is done in ``DST.partial`` beside the destination DST. A shard appears there whole and is noted, with its hash, in
a journal; the first line of the journal says what is being made from what. The next run finds the journal, checks the
shards' hashes and makes the others. The last step is one rename of the folder. No time or path gets into the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from slant.artifact import MANIFEST
from slant.artifact.manifest import FileInfo, FileName, Manifest
from slant.artifact.reader import PARTS
from slant.artifact.shards import safetensors
from slant.errors import CheckpointError, OutOfMemoryError, SlantError
from slant.files import remove_unfinished, sha256, sync_folder, write_whole
from slant.validation import record
from slant_kernels.quantized import QuantizedMatrix

JOURNAL = ".journal"


@dataclass(frozen=True)
class _Note(FileInfo):
    file: FileName


class Journal:
    """``files`` are the finished shards of the folder, as far as they are there and whole."""

    def __init__(self, folder: Path, plan: Manifest, force: bool) -> None:
        """Raises CheckpointError if the folder holds what another plan, or something else, has begun."""
        self._path = folder / JOURNAL
        first = plan.json()
        lines = list(_lines(self._path))
        if not lines and folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise CheckpointError(f"{folder} is in the way and not of slant's making; remove it.")
        if lines and lines[0] != json.loads(json.dumps(first)):
            different = ", ".join(key for key in first if first[key] != lines[0].get(key)) or "content"
            if not force:
                raise CheckpointError(
                    f"{folder} holds an unfinished artifact with another {different}: "
                    "finish that one first, or give it up with force (--force)."
                )
            shutil.rmtree(folder)
            lines = []
        folder.mkdir(exist_ok=True)
        remove_unfinished(folder)
        noted = {note.file: FileInfo(note.bytes, note.sha256) for note in map(_note, lines[1:]) if note}
        self.files = {name: info for name, info in noted.items() if _is(folder / name, info)}
        content = [first, *({"file": name, **vars(info)} for name, info in self.files.items())]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in content).encode())

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard and note it."""
        info = FileInfo(*write_whole(self._path.with_name(name), safetensors(tensors)))
        with self._path.open("a") as file:
            file.write(json.dumps({"file": name, **vars(info)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = info


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's lines up to the first damaged one: a stop may have torn the last."""
    with suppress(OSError, ValueError, RecursionError):
        for line in path.read_bytes().split(b"\n"):
            found = json.loads(line)
            if not isinstance(found, dict):
                return
            yield found


def _note(line: dict[str, Any]) -> _Note | None:
    with suppress(CheckpointError):  # a shard that is not noted is made again
        return record(_Note, line, JOURNAL, CheckpointError, "quantize again")
    return None


def _is(path: Path, info: FileInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.bytes and sha256(path) == info.sha256


def stored(name: str, weight: Tensor | QuantizedMatrix) -> dict[str, Tensor]:
    """A tensor as a shard holds it: a quantized matrix in its parts."""
    if isinstance(weight, Tensor):
        return {name: weight}
    return {f"{name}.{part}": getattr(weight, part).cpu() for part in PARTS}


def check_target(target: Path, force: bool) -> None:
    """Raise CheckpointError unless an artifact can be written there; ``force`` allows to replace one."""
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist.")
    if not target.exists():
        return
    if not force:
        raise CheckpointError(f"{target} exists; name another destination, or replace it with force (--force).")
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).exists()):
        raise CheckpointError(f"{target} is no artifact and is not replaced; name another destination.")


@contextmanager
def removed_if_refused(partial: Path) -> Iterator[None]:
    """The unfinished folder goes if the source turns out to be no good: nothing can resume it."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except SlantError:
        shutil.rmtree(partial)
        raise


def publish(partial: Path, target: Path) -> None:
    """Give the finished folder its name. A replaced artifact is out of the way for a moment, and gone at the end."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        target.rename(replaced)
    partial.rename(target)
    sync_folder(target.parent)
    (target / JOURNAL).unlink()
    if replaced.exists():
        shutil.rmtree(replaced)
