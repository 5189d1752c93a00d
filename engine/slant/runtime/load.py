"""A classifier's runner: its blocks loaded to where a memory tier wants them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from slant.batching.buckets import STEP
from slant.batching.costs import default_costs
from slant.batching.plan import Planner
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime.allocator import keep_freed_memory
from slant.runtime.classifier import Classifier
from slant.runtime.execution import Executor
from slant.runtime.memory import Tier
from slant.runtime.runner import Runner
from slant.tensor_files import EMBEDDING
from slant_kernels.merged import Scratch
from slant_kernels.onednn import can_reorder

Progress = Callable[[int, int], None]


def load_runner(
    classifier: Classifier,
    tier: Tier,
    *,
    positions: int,
    progress: Progress = lambda done, total: None,
) -> Executor:
    """Load the blocks; ``progress(done, total)`` counts them. ``positions``: as many tokens can a sequence have."""
    source, prompt, head, options = classifier.source, classifier.prompt, classifier.head, classifier.options
    dtype, device = options.dtype, options.device
    if device.type == "cpu":
        keep_freed_memory()
    stays = tier.quantized and source.recipe and not options.eight_bit
    scratch = Scratch(dtype, device) if stays and not (tier.panels or options.w4a8) else None
    planner = planner_of(classifier, tier.token_budget)
    if tier.offload:
        from slant.runtime.offload import OffloadRunner

        weights = Weights(source, dtype, torch.device("cpu"), scratch, eight_bit=options.eight_bit)
        return OffloadRunner.from_host_memory(weights, device, head, prompt.prefix_ids, planner, positions, progress)
    ahead = {} if classifier.embedding is None else {EMBEDDING: classifier.embedding}
    weights = Weights(
        source,
        dtype,
        device,
        scratch,
        storage=options.storage,
        panels=tier.panels,
        reordered=can_reorder(dtype, device),
        eight_bit=options.eight_bit,
        w4a8=options.w4a8,
        ahead=ahead,
    )
    model = Model(weights, positions, progress, host_embedding=tier.host_embedding)
    if device.type == "cpu":
        return Runner(model, head, prompt.prefix_ids, planner)
    from slant.runtime.graphs import cuda_capture

    return Runner(model, head, prompt.prefix_ids, planner, cuda_capture(device))


def offloaded_to_disk(classifier: Classifier, progress: Progress = lambda done, total: None) -> Executor:
    """A runner that reads the checkpoint once in every run, block by block."""
    from slant.runtime.offload import OffloadRunner

    options, prefix_ids = classifier.options, classifier.prompt.prefix_ids
    weights = Weights(
        classifier.source,
        options.dtype,
        options.device,
        storage=options.storage,
        eight_bit=options.eight_bit,
        w4a8=options.w4a8,
    )
    planner = planner_of(classifier, options.token_budget)
    return OffloadRunner.from_disk(weights, classifier.head, prefix_ids, planner, options.max_tokens, progress)


def planner_of(classifier: Classifier, token_budget: int) -> Planner:
    """Plans batches by the default costs of the device."""
    options, threads = classifier.options, torch.get_num_threads()
    costs = default_costs(classifier.source.config, options.device.type, options.dtype.itemsize, threads)
    return Planner(token_budget, options.max_tokens, costs, options.deterministic, STEP[options.device.type])
