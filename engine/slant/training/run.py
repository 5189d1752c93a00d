"""``finetune``: trains a base checkpoint on labelled tables, writes the merged checkpoint and validates it.

The work lies in ``FOLDER.partial`` beside the destination, with the training's state in ``checkpoints`` and the plan,
all that the result depends on, in ``plan.json``: a stopped run is resumed only with the same plan. The last step is one
rename.
"""

from __future__ import annotations

import gc
import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic_core import to_jsonable_python

from slant import __version__
from slant.artifact import MANIFEST as QUANTIZED
from slant.engine import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.evaluation import Evaluation, evaluate
from slant.evaluation.predictions import Predictions
from slant.files import read_json, remove_unfinished, sha256, sync_folder, write_whole
from slant.model.checkpoint import Checkpoint, resolve
from slant.options import token_limit
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import check_vocabulary
from slant.runtime.resolved import DTYPES, choose_device, choose_dtype
from slant.tables.labelled import LabelledTexts
from slant.training.data import Example, Examples, TrainingTable, split_csv
from slant.training.merge import merge, write_adapter
from slant.training.network import adapted, deltas
from slant.training.recipe import TrainingRecipe
from slant.training.train import steps_of, train

PLAN = "plan.json"
NEEDED = ("peft", "accelerate")


@dataclass(frozen=True)
class Finetuned:
    """A finished checkpoint: its ``folder``, the ``record`` in training.json, its quality on the validation rows."""

    folder: Path
    record: Mapping[str, Any]
    validation: Evaluation


def finetune(
    base: str | Path,
    tables: Sequence[TrainingTable],
    output: str | Path,
    recipe: TrainingRecipe | None = None,
    *,
    device: str = "auto",
    template: str | None = None,
    labels: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    resume: bool = False,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Finetuned:
    """Train a checkpoint folder or hub id on labelled tables, and write the merged checkpoint to ``output``.

    device, template, labels: as for ``Engine.load``; the prompt becomes the new checkpoint's own.
    skip_invalid: drop and count rows that cannot be read or whose label is unknown.
    resume: continue a stopped run, if there is one, with the same arguments.
    progress: called with (stage, done, total). The global random generators are seeded.

    ``output`` appears complete or not at all. It holds the checkpoint; ``split.csv``, the part that each row went to;
    ``training.json``, with the recipe, versions, hashes, losses and validation; and ``adapter``, in peft's format.
    Raises SlantError for an argument or an input that does not fit.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SlantError(f"finetuning needs {' and '.join(missing)}: pip install 'slant[train]'.")
    recipe = recipe or TrainingRecipe()
    target = Path(output)
    work = _working_folder(target, resume)
    where = choose_device(device)
    if where.index is not None:
        raise SlantError(f"training takes the device cuda, not {device}; choose a GPU with CUDA_VISIBLE_DEVICES.")
    folder = resolve(base)
    if (folder / QUANTIZED).exists():
        raise CheckpointError(f"{base} is quantized; give the checkpoint that it was made from.")
    checkpoint = Checkpoint(folder)
    limit = token_limit(recipe.max_tokens, checkpoint.config.max_position_embeddings)
    recipe = replace(recipe, max_tokens=limit)
    prompt = Prompt.load(folder, template=template, labels=labels, max_tokens=limit, truncation=recipe.truncation)
    check_vocabulary(checkpoint, prompt)
    examples = Examples.read(tables, prompt, skip_invalid=skip_invalid)
    training, validation = examples.split(recipe.validation, recipe.seed, prompt.label_names)
    steps = steps_of(recipe, len(training))  # before any work: it may refuse
    native = where.type == "cuda" and torch.cuda.is_bf16_supported()
    bf16 = native if recipe.precision == "auto" else recipe.precision == "bf16"
    plan = _plan(checkpoint, tables, prompt, recipe, where, bf16)
    begin(work, plan)
    write_whole(work / "split.csv", split_csv((training, validation), tables, tuple(prompt.labels)))
    checkpointing = where.type == "cuda" if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    network = adapted(checkpoint, prompt, recipe, dtype=DTYPES["bf16" if bf16 else "fp32"], checkpointing=checkpointing)
    losses = train(
        network, training, recipe, work / "checkpoints", device=where, bf16=bf16, progress=partial(progress, "training")
    )
    write_adapter(network, checkpoint, prompt.answer_ids, str(base), work / "adapter")
    trained = deltas(network)
    del network  # merging and validating need its memory
    gc.collect()
    torch.cuda.empty_cache()
    files = merge(checkpoint, trained, prompt.answer_ids, work, partial(progress, "merging"))
    _write_json(work / "slant.json", {"template": prompt.template, "labels": dict(prompt.labels)})
    engine = Engine.load(work, device=device, max_tokens=recipe.max_tokens, truncation=recipe.truncation)
    quality = _validate(engine, validation, target.name, partial(progress, "validating"))
    computed_in = str(choose_dtype("auto", where)).removeprefix("torch.")
    record = {
        **plan,
        "base_model": str(base),
        "rows": {
            "dropped": dict(examples.dropped),
            "truncated": sum(example.truncated for example in examples.rows),
            "train": _counts(training, prompt),
            "validation": _counts(validation, prompt),
        },
        "files": files,
        "steps": steps,
        "losses": losses,
        "validation": {"weights": computed_in, **to_jsonable_python(quality.sides[0].assessment)},
    }
    _write_json(work / "training.json", record)
    work.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(target / "checkpoints")
    (target / PLAN).unlink()
    return Finetuned(target, record, quality)


def _plan(
    checkpoint: Checkpoint,
    tables: Sequence[TrainingTable],
    prompt: Prompt,
    recipe: TrainingRecipe,
    device: torch.device,
    bf16: bool,
) -> dict[str, Any]:
    """All that the trained weights depend on, as JSON; files by their SHA-256."""
    weights = sorted({info.file for info in checkpoint.tensors.values()})
    files = [checkpoint.folder / "config.json", checkpoint.folder / "tokenizer.json", *weights]
    read = "text_column", "labels_column", "group_column", "encoding", "delimiter"
    data = [
        {
            "file": Path(table.path).name,
            **{name: getattr(table, name) for name in read if getattr(table, name)},
            "sha256": sha256(Path(table.path)),
        }
        for table in tables
    ]
    return {
        "base": {path.name: sha256(path) for path in files},
        "data": data,
        "template": prompt.template,
        "labels": dict(prompt.labels),
        "recipe": asdict(recipe),
        "environment": {
            "slant": __version__,
            **{name: version(name) for name in ("torch", "transformers", *NEEDED)},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "precision": "bf16" if bf16 else "fp32",
        },
    }


def _working_folder(target: Path, resume: bool) -> Path:
    """``NAME.partial`` beside ``target``. Raises CheckpointError if there is a target, or a run not to resume."""
    work = target.with_name(target.name + ".partial")
    if not target.parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist.")
    if target.exists():
        raise CheckpointError(f"{target} exists; name another destination.")
    if work.exists() and not resume:
        raise CheckpointError(f"{work} holds an unfinished run: go on with resume (--resume), or remove it.")
    return work


def begin(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make the working folder; raises CheckpointError if it exists with another plan."""
    folder.mkdir(exist_ok=True)
    path = folder / PLAN
    if path.exists():
        begun = read_json(path, CheckpointError)
        if different := [key for key in plan if not isinstance(begun, dict) or plan[key] != begun.get(key)]:
            raise CheckpointError(
                f"{folder} was begun with another {' and '.join(different)}: resume with the same, or remove it."
            )
    elif any(not found.name.startswith(".") for found in folder.iterdir()):
        raise CheckpointError(f"{folder} is in the way and was not made by slant; remove it.")
    else:
        _write_json(path, plan)
    remove_unfinished(folder)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _counts(examples: Sequence[Example], prompt: Prompt) -> dict[str, int]:
    found = Counter(example.label for example in examples)
    return {answer: found[label] for label, answer in enumerate(prompt.labels)}


def _validate(
    engine: Engine, examples: Sequence[Example], name: str, progress: Callable[[int, int], None]
) -> Evaluation:
    """The quality of the engine's answers for held-out rows. Raises SlantError for a row without an answer."""
    texts = LabelledTexts(tuple(example.text for example in examples), (None,) * len(examples))
    scores = texts.scored(engine, progress)
    if problem := next((error for error in scores.error if error is not None), None):
        raise SlantError(f"the merged checkpoint does not answer: {problem}")
    gold = np.array([example.label for example in examples])
    return evaluate("the validation rows", engine.labels, gold, [Predictions(name, scores.probabilities)])
