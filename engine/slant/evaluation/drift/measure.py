"""Measure a model's drift: our scores, the reference's scores of the same texts, and a report of their difference.

One model is in memory at a time: ours is released before the reference is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
from slant.model.adapter import model_folders
from slant.model.folder import resolve
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.resolved import DTYPES, choose_device
from slant.tables.labelled import LabelledTexts


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
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> DriftReport:
    """Score ``texts`` with ``model`` and with its reference, and compare.

    options: how ``model`` is loaded; the reference answers the same prompt on the same device. date: ISO 8601, for the
    certificate. reference: its dtype, "bf16" or "fp32". reference_model: the unquantized checkpoint, by default
    ``model`` itself. method: "layerwise" (one layer in memory), "resident" (an
    Engine), or "transformers". progress: called with (what is being done, done, total).

    Raises SlantError if a model or a label does not fit, or no text was answered by both.
    """
    if reference_model is None and (resolve(model) / MANIFEST).exists():
        raise SlantError(f"{model} is quantized; name the checkpoint it was made of with --reference-model.")
    source = model if reference_model is None else reference_model
    if reference not in DTYPES or method not in METHODS:
        raise SlantError(f"there is no reference {reference!r} by the method {method!r}.")
    engine = Engine.load(model, options, progress=partial(progress, "loading the model"))
    prompt, resolved = engine.prompt, engine.options
    gold = texts.gold(tuple(prompt.labels), prompt.label_names)
    rendering: Any = {
        "template": prompt.template,
        "labels": prompt.labels,
        "max_tokens": resolved.max_tokens,
        "truncation": resolved.truncation,
        "special_tokens": options.special_tokens,
    }
    their_prompt = Prompt.load(model_folders(source), **rendering)
    both = zip(prompt.encode(texts.texts), their_prompt.encode(texts.texts), strict=True)
    for row, (one, other) in enumerate(both, 1):
        if not np.array_equal(one.ids, other.ids):
            raise SlantError(f"row {row} has other tokens in the reference: the tokenizers are not the same.")
    ours = texts.scored(engine, partial(progress, "scoring with the model"))
    del engine
    same = LoadOptions(weights=reference, device=options.device, threads=options.threads, **rendering)
    if method == "transformers":
        progress("scoring with transformers", 0, 1)
        where = str(choose_device(options.device))
        loaded = Reference.load(source, weights=reference, device=where, prompt=their_prompt)
        theirs = texts.with_errors(loaded.score(texts.texts))  # type: ignore[arg-type]
    elif method == "layerwise":
        # The progress of layers, not of texts: these are all answered at the very end.
        engine = Engine.offloaded(source, same, progress=partial(progress, "reference, layer by layer"))
        theirs = texts.with_errors(engine.score(texts.texts))
    else:
        engine = Engine.load(source, same, progress=partial(progress, "loading the reference"))
        theirs = texts.scored(engine, partial(progress, "scoring with the reference"))
    device = resolved.device
    made = certificate(
        drift_between(theirs, ours, gold),
        texts=texts.texts,
        prompt=prompt,
        arithmetic=resolved.arithmetic(),
        reference=reference,
        method=method,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        date=date,
    )
    name = resolve(model).resolve().name if Path(model).is_dir() else str(model)
    return DriftReport(name, made, budgets or Budgets(), RowDrift.of(theirs, ours), texts.texts, gold)
