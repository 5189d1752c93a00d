"""Quantizes a checkpoint into an artifact; a stopped run goes on where it was.

The same source, recipe, versions and device give the same bytes, stopped or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from slant import __version__
from slant.artifact import self_test
from slant.artifact.manifest import FileInfo, Manifest
from slant.artifact.reader import OPTIONAL_FILES, shard_tensors
from slant.artifact.recipe import Recipe
from slant.artifact.writer import Journal, check_target, publish, removed_if_refused, stored
from slant.engine import Engine
from slant.errors import OutOfMemoryError
from slant.files import first_with, sha256_of, write_whole
from slant.model.folder import CONFIG
from slant.model.hqq import QuantizedCheckpoint, solver
from slant.model.source import Dense, open_artifact, open_checkpoint
from slant.options import LoadOptions, token_limit
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import check_vocabulary
from slant.runtime.resolved import choose_device
from slant.tensor_files import HEAD
from slant_kernels.quantized import QuantizedMatrix


def quantize_checkpoint(
    source: str | Path,
    destination: str | Path,
    recipe: Recipe,
    *,
    options: LoadOptions | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Make the artifact ``destination`` from a checkpoint folder or hub id, and return its path.

    options: ``device`` is where it is quantized; the prompt of ``template`` and ``labels`` becomes the artifact's own.
    force: replace an artifact at ``destination``, and give up an unfinished one of another source or recipe.
    progress: called with (tensors done, tensors in all).

    Holds one layer in fp32. Raises SlantError if source, recipe or destination do not fit, and OutOfMemoryError if a
    matrix does not fit the device's memory: the next run goes on with it.
    """
    solver()
    options = options or LoadOptions()
    where = choose_device(options.device)
    target = Path(destination)
    check_target(target, force)
    checkpoint = open_checkpoint(source)
    shapes = checkpoint.config.shapes()
    recipe.check(shapes, checkpoint.config.quantizable)
    limit = token_limit(None, checkpoint.config.max_position_embeddings)
    prompt = Prompt.load(checkpoint.folders, template=options.template, labels=options.labels, max_tokens=limit)
    check_vocabulary(checkpoint, prompt)
    plan = Manifest(
        recipe=recipe,
        made={
            "slant": __version__,
            "torch": torch.__version__,
            "hqq": version("hqq"),
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        },
        source=_hashed(checkpoint),
        answers=prompt.answer_ids if checkpoint.head == HEAD else None,
        files={},
    )
    partial = target.with_name(target.name + ".partial")
    journal = Journal(partial, plan, force)
    view = QuantizedCheckpoint(checkpoint, recipe, where)
    shards = shard_tensors(shapes)
    done, total = 0, sum(map(len, shards.values()))
    with removed_if_refused(partial):
        for shard, names in shards.items():
            if shard not in journal.files:
                tensors: dict[str, Tensor] = {}
                for index, name in enumerate(names, start=1):
                    matrix = _quantized(view, name, where)
                    tensors |= stored(name, checkpoint.read(name) if matrix is None else matrix)
                    progress(done + index, total)
                if "norm.weight" in names and plan.answers is not None:
                    tensors[HEAD] = checkpoint.head_rows(plan.answers)
                journal.write(shard, tensors)
            else:
                progress(done + len(names), total)
            done += len(names)
    settings = {"template": prompt.template, "labels": prompt.labels}
    texts = {"slant.json": (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()}
    for name in (CONFIG, "tokenizer.json", *OPTIONAL_FILES):
        # The base's own configuration: an adapter's folder may have another.
        path = checkpoint.files[0] if name == CONFIG else first_with(checkpoint.folders, name)
        if path.exists():
            texts[name] = path.read_bytes()
    written = {name: FileInfo(*write_whole(partial / name, content)) for name, content in texts.items()}
    made = {shard: journal.files[shard] for shard in shards}
    replace(plan, files=made | dict(sorted(written.items()))).write(partial)
    del prompt  # its tokenizer may be the largest thing in memory, and the next line loads it again
    engine = Engine.offloaded(partial, weights="fp32", device=options.device)
    scores, asked = engine.score(self_test.TEXTS), engine.prompt
    with removed_if_refused(partial):
        test = self_test.record(asked.template_sha256, asked.labels, scores.probabilities)
    open_artifact(partial).annotate(self_test=test)
    publish(partial, target)
    return target


def _quantized(view: QuantizedCheckpoint, name: str, device: torch.device) -> QuantizedMatrix | None:
    try:
        return view.quantized(name)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"{name} does not fit the free memory of {device} to be quantized: free some and give the same command "
            "again, which goes on from here, or start anew on the CPU (--device cpu --force)."
        ) from None


def _hashed(checkpoint: Dense) -> dict[str, FileInfo]:
    """Sizes and hashes of the source's files."""
    config, *weights = checkpoint.files
    paths = [config, first_with(checkpoint.folders, "tokenizer.json"), *weights]
    digests = sha256_of(paths)
    return {path.name: FileInfo(path.stat().st_size, digest) for path, digest in zip(paths, digests, strict=True)}
