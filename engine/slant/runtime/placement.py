"""A classifier's runner: its weights put where a memory tier wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from slant.batching.costs import Costs, Table, default_costs
from slant.model.host_memory import keep_freed_memory
from slant.model.qwen3_5 import Model
from slant.model.weights import Weights
from slant.runtime.classifier import Classifier
from slant.runtime.execution import cuda_capture
from slant.runtime.layerwise import LayerwiseRunner
from slant.runtime.runner import Runner
from slant.runtime.tiers import Demand, Tier
from slant_kernels.merged import Scratch
from slant_kernels.onednn import can_reorder


def demand(classifier: Classifier, max_tokens: int) -> Demand:
    """What decides the bytes of the tiers of a classifier."""
    return Demand(
        classifier.source.config,
        None if classifier.int8 else classifier.source.recipe,
        classifier.dtype,
        classifier.device.type,
        answers=len(classifier.head.rows),
        prefix_tokens=len(classifier.prompt.prefix_ids),
        max_tokens=max_tokens,
        token_budget=classifier.token_budget,
        int8=classifier.int8,
    )


def place(
    classifier: Classifier,
    tier: Tier,
    *,
    max_tokens: int,
    costs: Costs | None = None,
    deterministic: bool = False,
    max_seconds: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Runner | LayerwiseRunner:
    """Load the blocks; ``progress(done, total)`` counts them."""
    source, dtype, device = classifier.source, classifier.dtype, classifier.device
    head, prefix_ids = classifier.head, classifier.prompt.prefix_ids
    if device.type == "cpu":
        keep_freed_memory()
    scratch = Scratch(dtype, device) if tier.packed and source.recipe is not None else None
    if tier.streamed:
        return LayerwiseRunner.streaming(
            Weights(source, dtype, torch.device("cpu"), scratch),
            device,
            head,
            prefix_ids,
            group_tokens=tier.token_budget,
            loading=progress,
            max_tokens=max_tokens,
            token_budget=tier.token_budget,
            costs=costs,
            deterministic=deterministic,
        )
    weights = Weights(source, dtype, device, scratch, reordered=can_reorder(dtype, device), int8=classifier.int8)
    model = Model(weights, max_tokens, progress, host_embedding=tier.host_embedding)
    return Runner(
        model,
        head,
        prefix_ids,
        max_tokens=max_tokens,
        token_budget=tier.token_budget,
        costs=costs,
        deterministic=deterministic,
        max_seconds=max_seconds,
        capture=cuda_capture(device) if device.type == "cuda" else None,
    )


def read_costs(path: str | Path | None, classifier: Classifier) -> Costs:
    """The measured table in a file, or else the device's default."""
    if path is not None:
        return Table.read(Path(path))
    threads = torch.get_num_threads()
    return default_costs(classifier.source.config, classifier.device.type, classifier.dtype.itemsize, threads)
