"""Measure a model's drift: our scores, the reference's scores of the same texts, and a report of their difference.

One model is in memory at a time: ours is released before the reference is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slant.artifact.certificate import METHODS, certificate
from slant.artifact.manifest import NAME
from slant.engine import Engine
from slant.errors import SlantError
from slant.evaluation.drift.budgets import Budgets
from slant.evaluation.drift.figures import RowDrift, drift_between
from slant.evaluation.drift.report import DriftReport
from slant.evaluation.reference import Reference
from slant.model.checkpoint import resolve
from slant.prompt.prompt import Prompt
from slant.runtime.classifier import DTYPES, choose_device, choose_dtype
from slant.scores import Scores
from slant.tables.labelled import LabelledTexts

Progress = Callable[[str, int, int], None]


def measure(
    model: str | Path,
    texts: LabelledTexts,
    *,
    date: str,
    weights: str = "auto",
    reference: str = "bf16",
    reference_model: str | Path | None = None,
    method: str = "layerwise",
    device: str = "auto",
    template: str | None = None,
    labels: Mapping[str, str] | None = None,
    max_tokens: int = 8192,
    truncation: str = "head",
    budgets: Budgets | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> DriftReport:
    """Score ``texts`` with ``model`` and with its reference, and compare.

    date: ISO 8601, for the certificate. weights, device, template, labels, max_tokens, truncation: as for
    ``Engine.load``; the reference answers the same prompt. reference: its dtype, "bf16" or "fp32". reference_model: the
    unquantized checkpoint, by default ``model`` itself. method: "layerwise" (one layer in memory), "resident" (an
    Engine), or "transformers". progress: called with (what is being done, done, total).

    Raises SlantError if a model or a label does not fit, or no text was answered by both.
    """
    source = _reference_folder(model, reference_model)
    if reference not in DTYPES or method not in METHODS:
        raise SlantError(f"there is no reference {reference!r} by the method {method!r}.")
    options: dict[str, Any] = {"max_tokens": max_tokens, "truncation": truncation}
    engine = Engine.load(
        model,
        weights=weights,
        device=device,
        template=template,
        labels=labels,
        progress=partial(progress, "loading the model"),
        **options,
    )
    prompt, where = engine.prompt, choose_device(device)
    gold = texts.gold(tuple(prompt.labels), prompt.label_names)
    options |= {"template": prompt.template, "labels": prompt.labels}
    check_tokens(prompt, Prompt.load(source, **options), texts)
    ours = texts.scored(engine, partial(progress, "scoring with the model"))
    del engine
    theirs = _reference(source, texts, options, weights=reference, method=method, device=device, progress=progress)
    if (resolve(model) / NAME).exists():
        weights = "artifact"
    elif weights == "auto":
        weights = next(name for name, dtype in DTYPES.items() if dtype == choose_dtype(weights, where))
    made = certificate(
        drift_between(theirs, ours, gold),
        texts=texts.texts,
        prompt=prompt,
        weights=weights,
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
    if (folder / NAME).exists():
        raise SlantError(f"{model} is quantized; name the checkpoint it was made of with --reference-model.")
    return folder


def _reference(
    source: Path,
    texts: LabelledTexts,
    options: dict[str, Any],
    *,
    weights: str,
    method: str,
    device: str,
    progress: Progress,
) -> Scores:
    if method == "transformers":
        progress("scoring with transformers", 0, 1)
        loaded = Reference.load(
            source, weights=weights, device=str(choose_device(device)), prompt=Prompt.load(source, **options)
        )
        return texts.with_errors(loaded.score(texts.texts))  # type: ignore[arg-type]
    options = {**options, "weights": weights, "device": device}
    if method == "layerwise":
        # The progress of layers, not of texts: these are all answered at the very end.
        engine = Engine.layerwise(source, **options, progress=partial(progress, "reference, layer by layer"))
        return texts.with_errors(engine.score(texts.texts))
    engine = Engine.load(source, **options, progress=partial(progress, "loading the reference"))
    return texts.scored(engine, partial(progress, "scoring with the reference"))
