"""``finetune``: trains a base checkpoint on labelled tables, writes the merged checkpoint and validates it.

The work lies in ``FOLDER.partial`` beside the destination, with the plan in ``plan.json`` and the training's state in
``checkpoints``, where a stopped run can be resumed. The last step is one rename.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slant.artifact import MANIFEST as QUANTIZED
from slant.artifact.records import to_plain
from slant.engine import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.evaluation import Evaluation, evaluate
from slant.evaluation.predictions import Predictions
from slant.files import sync_folder, write_whole
from slant.model.checkpoint import Checkpoint, resolve
from slant.options import token_limit
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import check_vocabulary
from slant.runtime.resolved import DTYPES, choose_device, choose_dtype
from slant.tables.labelled import LabelledTexts
from slant.training import plan as plans
from slant.training.adapter import write_adapter
from slant.training.data import Example, Examples, TrainingTable, split_csv
from slant.training.merge import merge
from slant.training.network import adapted, deltas
from slant.training.recipe import TrainingRecipe
from slant.training.train import steps_of, train

CHECKPOINTS, ADAPTER, RECORD, SPLIT = "checkpoints", "adapter", "training.json", "split.csv"
Progress = Callable[[str, int, int], None]


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
    progress: Progress = lambda stage, done, total: None,
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
    require()
    recipe = recipe or TrainingRecipe()
    target = Path(output)
    work = plans.working_folder(target, resume)
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
    parts = examples.split(recipe.validation, recipe.seed, prompt.label_names)
    training, validation = parts
    steps = steps_of(recipe, len(training))  # before any work: it may refuse
    bf16 = _bf16(recipe.precision, where)
    plan = plans.plan_of(checkpoint, tables, prompt, recipe, where, bf16=bf16)
    plans.begin(work, plan)
    write_whole(work / SPLIT, split_csv(parts, tables, tuple(prompt.labels)))
    checkpointing = where.type == "cuda" if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    network = adapted(checkpoint, prompt, recipe, dtype=DTYPES["bf16" if bf16 else "fp32"], checkpointing=checkpointing)
    losses = train(
        network,
        training,
        recipe,
        work / CHECKPOINTS,
        device=where,
        bf16=bf16,
        progress=partial(progress, "training"),
    )
    write_adapter(network, checkpoint, prompt.answer_ids, str(base), work / ADAPTER)
    trained = deltas(network)
    del network  # merging and validating need its memory
    gc.collect()
    torch.cuda.empty_cache()
    files = merge(checkpoint, trained, prompt.answer_ids, work, partial(progress, "merging"))
    plans.write_json(work / "slant.json", {"template": prompt.template, "labels": dict(prompt.labels)})
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
        "validation": {"weights": computed_in, **to_plain(quality.sides[0].assessment)},
    }
    plans.write_json(work / RECORD, record)
    work.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(target / CHECKPOINTS)
    (target / plans.NAME).unlink()
    return Finetuned(target, record, quality)


def require() -> None:
    """Raise SlantError if a package of the extra ``train`` is missing."""
    if missing := [name for name in plans.NEEDED if find_spec(name) is None]:
        raise SlantError(f"finetuning needs {' and '.join(missing)}: pip install 'slant[train]'.")


def _bf16(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


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
