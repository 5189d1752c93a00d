"""``finetune``: base and tables in, a merged checkpoint with its validation out.

Work is done in ``MANIFEST.partial`` beside the destination: ``plan.json`` says what is being made from what, and
``checkpoints`` holds the training's state. A run that was stopped goes on there. The last step is one rename.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from slant.options import DTYPES, choose_device, choose_dtype, token_limit
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import check_vocabulary
from slant.tables.labelled import LabelledTexts
from slant.training import plan as plans
from slant.training.adapter import write_adapter
from slant.training.data import Example, Examples, Table, split_csv
from slant.training.merge import merge
from slant.training.network import adapted, deltas
from slant.training.recipe import Recipe
from slant.training.train import steps_of, train

CHECKPOINTS, ADAPTER, RECORD, SPLIT = "checkpoints", "adapter", "training.json", "split.csv"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finetuned:
    """A finished checkpoint: its ``folder``, what ``training.json`` records, and its quality on the validation rows."""

    folder: Path
    record: Mapping[str, Any]
    validation: Evaluation


def finetune(
    base: str | Path,
    tables: Sequence[Table],
    output: str | Path,
    recipe: Recipe | None = None,
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
    skip_invalid: drop and count rows that cannot be read, or whose label is neither an answer nor a name of the prompt.
    resume: go on with a run that was stopped, if there is one; it must be the same in every way.
    progress: called with (stage, done, total). The global random generators are seeded.

    ``output`` appears complete or not at all. It holds the checkpoint; ``split.csv``, the part that each row went to;
    ``training.json``, with the recipe, versions, hashes, losses and validation; and ``adapter``, peft's, of the network
    that was trained. Raises SlantError for whatever does not fit.
    """
    require()
    recipe = recipe or Recipe()
    target = Path(output)
    partial = plans.working_folder(target, resume)
    where = choose_device(device)
    if where.index is not None:
        raise SlantError(f"training takes device=cuda, not {device}; choose a GPU with CUDA_VISIBLE_DEVICES.")
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
    steps = steps_of(recipe, len(training))
    bf16 = _bf16(recipe.precision, where)
    plan = plans.plan_of(checkpoint, tables, prompt, recipe, where, bf16=bf16)
    plans.begin(partial, plan)
    write_whole(partial / SPLIT, split_csv(parts, tables, tuple(prompt.labels)))
    checkpointing = where.type == "cuda" if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    network = adapted(checkpoint, prompt, recipe, dtype=DTYPES["bf16" if bf16 else "fp32"], checkpointing=checkpointing)
    losses = train(
        network,
        training,
        recipe,
        partial / CHECKPOINTS,
        device=where,
        bf16=bf16,
        progress=lambda done, total: progress("training", done, total),
    )
    write_adapter(network, checkpoint, prompt.answer_ids, str(base), partial / ADAPTER)
    trained = deltas(network)
    del network
    _free_memory()
    files = merge(checkpoint, trained, prompt.answer_ids, partial, lambda done, total: progress("merging", done, total))
    plans.write_json(partial / "slant.json", {"template": prompt.template, "labels": dict(prompt.labels)})
    engine = Engine.load(partial, device=device, max_tokens=recipe.max_tokens, truncation=recipe.truncation)
    quality = _validate(engine, validation, target.name, lambda done, total: progress("validating", done, total))
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
    plans.write_json(partial / RECORD, record)
    partial.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(target / CHECKPOINTS)
    (target / plans.MANIFEST).unlink()
    return Finetuned(target, record, quality)


def _free_memory() -> None:
    """Give back what the training held, to merge and validate in."""
    gc.collect()
    torch.cuda.empty_cache()


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
    """The engine's answers for the held-out rows, judged. Raises SlantError if there is a row it cannot answer."""
    texts = LabelledTexts(tuple(example.text for example in examples), (None,) * len(examples), None)
    scores = texts.scored(engine, progress)
    if problem := next((error for error in scores.error if error is not None), None):
        raise SlantError(f"the merged checkpoint does not answer: {problem}")
    gold = np.array([example.label for example in examples])
    return evaluate("the validation rows", engine.labels, gold, [Predictions.of_scores(name, scores)])
