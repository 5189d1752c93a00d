"""Writes a quantized artifact from a checkpoint, shard by shard, and goes on where it was stopped.

Work is done in ``NAME.partial`` beside the destination. A shard appears there whole and is noted, with its hash, in a
journal; the first line of the journal says what is being made from what. The next run finds the journal, checks the
shards' hashes and makes the others. The last step is one rename of the folder. No time or path gets into the folder:
the same source, recipe, versions and device give the same bytes, stopped or not.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slant import __version__
from slant.artifact import self_test as probe
from slant.artifact.manifest import NAME, FileInfo, Manifest
from slant.artifact.reader import OPTIONAL_FILES, PARTS, Artifact, shard_tensors
from slant.artifact.recipe import Recipe
from slant.artifact.shards import safetensors
from slant.engine import Engine
from slant.errors import CheckpointError
from slant.files import remove_unfinished, sha256, sync_folder, write_whole
from slant.model.checkpoint import HEAD, Checkpoint, resolve
from slant.model.hqq import QuantizedCheckpoint, solver
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import check_fit, choose_device

JOURNAL = ".journal"
_NOTE = {"file", "bytes", "sha256"}


def quantize_checkpoint(
    source: str | Path,
    destination: str | Path,
    recipe: Recipe,
    *,
    device: str = "auto",
    template: str | None = None,
    labels: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Make the artifact ``destination`` from a checkpoint folder or hub id, and return its path.

    device, template, labels: as for ``Engine.load``; the prompt becomes the artifact's own.
    force: replace an artifact at ``destination``, and give up an unfinished one of another source or recipe.
    progress: called with (tensors done, tensors in all).

    Holds one layer in fp32. Raises SlantError if source, recipe or destination do not fit.
    """
    solver()
    where = choose_device(device)
    target = Path(destination)
    check_target(target, force)
    folder = resolve(source)
    if (folder / NAME).exists():
        raise CheckpointError(f"{source} is quantized already; give the checkpoint that it was made from.")
    checkpoint = Checkpoint(folder)
    recipe.check(checkpoint.config)
    prompt = Prompt.load(folder, template=template, labels=labels)
    check_fit(checkpoint, prompt)
    plan = Manifest(
        recipe=recipe,
        made={
            "slant": __version__,
            "torch": torch.__version__,
            "hqq": version("hqq"),
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        },
        source=_hashed(folder, checkpoint),
        answers=prompt.answer_ids if checkpoint.head == HEAD else None,
        files={},
    )
    partial = target.with_name(target.name + ".partial")
    journal = Journal(partial, plan, force)
    view = QuantizedCheckpoint(checkpoint, recipe, where)
    shards = shard_tensors(checkpoint.config)
    done, total = 0, sum(map(len, shards.values()))
    for shard, names in shards.items():
        if shard not in journal.files:
            tensors: dict[str, Tensor] = {}
            for index, name in enumerate(names, start=1):
                tensors |= _stored(view, name)
                progress(done + index, total)
            if "norm.weight" in names and plan.answers is not None:
                tensors[HEAD] = checkpoint.head_rows(plan.answers)
            journal.add(shard, FileInfo(*write_whole(partial / shard, safetensors(tensors))))
        else:
            progress(done + len(names), total)
        done += len(names)
    settings = {"template": prompt.template, "labels": prompt.labels}
    texts = {"slant.json": (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()}
    for name in ("config.json", "tokenizer.json", *OPTIONAL_FILES):
        if (folder / name).exists():
            texts[name] = (folder / name).read_bytes()
    written = {name: FileInfo(*write_whole(partial / name, content)) for name, content in texts.items()}
    made = {shard: journal.files[shard] for shard in shards}
    replace(plan, files=made | dict(sorted(written.items()))).write(partial)
    del prompt  # its tokenizer may be the largest thing in memory, and the next line loads it again
    known = Engine.layerwise(partial, weights="fp32", device=device)
    Artifact(partial).annotate(probe=probe.record(known.prompt, known.score(probe.TEXTS)))
    _publish(partial, target)
    return target


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
        noted = {line["file"]: FileInfo(line["bytes"], line["sha256"]) for line in lines[1:] if line.keys() == _NOTE}
        self.files = {name: info for name, info in noted.items() if _is(folder / name, info)}
        content = [first, *({"file": name, **vars(info)} for name, info in self.files.items())]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in content).encode())

    def add(self, name: str, info: FileInfo) -> None:
        """Note a finished shard."""
        with self._path.open("a") as file:
            file.write(json.dumps({"file": name, **vars(info)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = info


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's lines up to the first damaged one: a stop may have torn the last."""
    with suppress(OSError, ValueError):
        for line in path.read_bytes().split(b"\n"):
            found = json.loads(line)
            if not isinstance(found, dict):
                return
            yield found


def _is(path: Path, info: FileInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.bytes and sha256(path) == info.sha256


def _stored(view: QuantizedCheckpoint, name: str) -> dict[str, Tensor]:
    matrix = view.quantized(name)
    if matrix is None:
        return {name: view.checkpoint.read(name)}
    return {f"{name}.{part}": getattr(matrix, part).cpu() for part in PARTS}


def _hashed(folder: Path, checkpoint: Checkpoint) -> dict[str, FileInfo]:
    """Sizes and hashes of the source's files."""
    weights = sorted({info.file for info in checkpoint.tensors.values()})
    paths = [folder / "config.json", folder / "tokenizer.json", *weights]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(sha256, paths))
    return {path.name: FileInfo(path.stat().st_size, digest) for path, digest in zip(paths, digests, strict=True)}


def check_target(target: Path, force: bool) -> None:
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist.")
    if not target.exists():
        return
    if not force:
        raise CheckpointError(f"{target} exists; name another destination, or replace it with force (--force).")
    if not target.is_dir() or (any(target.iterdir()) and not (target / NAME).exists()):
        raise CheckpointError(f"{target} is no artifact and is not replaced; name another destination.")


def _publish(partial: Path, target: Path) -> None:
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
