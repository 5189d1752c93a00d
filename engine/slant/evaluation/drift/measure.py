"""Measure a model's drift: our scores, the reference's scores of the same texts, and a report of their difference.

One model is in memory at a time: ours is released before the reference is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from slant.artifact import MANIFEST
from slant.artifact.certificate import METHODS, certificate
from slant.engine import Engine
from slant.errors import SlantError
from slant.evaluation.drift.budgets import Budgets
from slant.evaluation.drift.figures import RowDrift, drift_between
from slant.evaluation.drift.report import DriftReport
from slant.evaluation.reference import Reference
from slant.model.checkpoint import resolve
from slant.options import MAX_TOKENS, LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.resolved import DTYPES, choose_device
from slant.scores import Scores
from slant.tables.labelled import LabelledTexts

Progress = Callable[[str, int, int], None]


def measure(
    model: str | Path,
    texts: LabelledTexts,
    options: LoadOptions,
    *,
    date: str,
    reference: str = "bf16",
    reference_model: str | Path | None = None,
    method: str = "layerwise",
    budgets: Budgets | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> DriftReport:
    """Score ``texts`` with ``model`` and with its reference, and compare.

    options: how ``model`` is loaded; the reference answers the same prompt on the same device. date: ISO 8601, for the
    certificate. reference: its dtype, "bf16" or "fp32". reference_model: the
    unquantized checkpoint, by default ``model`` itself. method: "layerwise" (one layer in memory), "resident" (an
    Engine), or "transformers". progress: called with (what is being done, done, total).

    Raises SlantError if a model or a label does not fit, or no text was answered by both.
    """
    source = _reference_folder(model, reference_model)
    if reference not in DTYPES or method not in METHODS:
        raise SlantError(f"there is no reference {reference!r} by the method {method!r}.")
    engine = Engine.load(model, options, progress=partial(progress, "loading the model"))
    prompt, resolved = engine.prompt, engine.options
    where = resolved.device
    gold = texts.gold(tuple(prompt.labels), prompt.label_names)
    same = LoadOptions(
        weights=reference,
        device=options.device,
        template=prompt.template,
        labels=prompt.labels,
        max_tokens=resolved.max_tokens,
        truncation=resolved.truncation,
        threads=options.threads,
    )
    check_tokens(prompt, _prompt(source, same), texts)
    ours = texts.scored(engine, partial(progress, "scoring with the model"))
    del engine
    theirs = _reference(source, texts, same, method, progress)
    made = certificate(
        drift_between(theirs, ours, gold),
        texts=texts.texts,
        prompt=prompt,
        arithmetic=resolved.arithmetic(),
        reference=reference,
        method=method,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        date=date,
    )
    name = resolve(model).resolve().name if Path(model).is_dir() else str(model)
    return DriftReport(name, made, budgets or Budgets(), RowDrift.of(theirs, ours), texts.texts, gold)


def check_tokens(ours: Prompt, theirs: Prompt, texts: LabelledTexts) -> None:
    """Raise SlantError unless the model and its reference make the same tokens of every text."""
    both = zip(ours.encode(texts.texts), theirs.encode(texts.texts), strict=True)
    for row, (one, other) in enumerate(both, 1):
        if not np.array_equal(one.ids, other.ids):
            raise SlantError(f"row {row} has other tokens in the reference: the tokenizers are not the same.")


def _reference_folder(model: str | Path, reference_model: str | Path | None) -> Path:
    if reference_model is not None:
        return resolve(reference_model)
    folder = resolve(model)
    if (folder / MANIFEST).exists():
        raise SlantError(f"{model} is quantized; name the checkpoint it was made of with --reference-model.")
    return folder


def _prompt(folder: Path, options: LoadOptions) -> Prompt:
    return Prompt.load(
        folder,
        template=options.template,
        labels=options.labels,
        max_tokens=options.max_tokens or MAX_TOKENS,
        truncation=options.truncation,
    )


def _reference(source: Path, texts: LabelledTexts, options: LoadOptions, method: str, progress: Progress) -> Scores:
    if method == "transformers":
        progress("scoring with transformers", 0, 1)
        where, prompt = str(choose_device(options.device)), _prompt(source, options)
        loaded = Reference.load(source, weights=options.weights, device=where, prompt=prompt)
        return texts.with_errors(loaded.score(texts.texts))  # type: ignore[arg-type]
    if method == "layerwise":
        # The progress of layers, not of texts: these are all answered at the very end.
        engine = Engine.offloaded(source, options, progress=partial(progress, "reference, layer by layer"))
        return texts.with_errors(engine.score(texts.texts))
    engine = Engine.load(source, options, progress=partial(progress, "loading the reference"))
    return texts.scored(engine, partial(progress, "scoring with the reference"))
