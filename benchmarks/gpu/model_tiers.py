"""The whole model of random weights in each way it can be held, and what ``slant.runtime.memory`` predicts for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from harness.workloads import ANSWERS, random_prefix
from random_model import RandomSource
from slant.artifact.recipe import NAMED, Recipe
from slant.batching.costs import BatchCosts
from slant.model.config import ModelConfig
from slant.runtime.classifier import Classifier
from slant.runtime.execution import Head
from slant.runtime.graphs import Capture, Graphs
from slant.runtime.load import load_runner
from slant.runtime.memory import MemoryRequest, Tier, tiers
from slant.runtime.offload import OffloadRunner
from slant.runtime.resolved import ResolvedOptions
from slant.runtime.runner import Runner
from slant_kernels.linear import EIGHT_BIT

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Way:
    """``kind`` is the name of a memory tier; ``most`` what a text of 8192 tokens is meant to need in bytes."""

    name: str
    weights: str
    kind: str
    most: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: bf16 but for fp32 weights."""
        return torch.float32 if self.weights == "fp32" else BF16

    def recipe(self, config: ModelConfig) -> Recipe | None:
        return config.recipe(NAMED[self.weights]) if self.weights in NAMED else None

    def predicted(self, config: ModelConfig, max_tokens: int, token_budget: int) -> Tier:
        """What the engine reckons with on a GPU."""
        ids = len(random_prefix(config.vocab_size))
        sizes = len(ANSWERS), ids, max_tokens, token_budget
        eight_bit = self.weights if self.weights in EIGHT_BIT else None
        request = MemoryRequest(config, self.recipe(config), self.dtype, "cuda", *sizes, eight_bit=eight_bit)
        return next(tier for tier in tiers(request) if tier.name == self.kind)


BF16_RESIDENT = Way("bf16", "bf16", "resident")
# In the order of what is asked first.
WAYS = (
    BF16_RESIDENT,
    Way("fp8", "fp8", "resident"),
    Way("hqq4", "hqq4", "quantized"),
    Way("hqq4, host embedding", "hqq4", "quantized, host embedding", most=3.0e9),
    Way("hqq4, offload", "hqq4", "offload", most=1.0e9),
    Way("hqq8", "hqq8", "quantized"),
)


@dataclass(frozen=True)
class Loaded:
    """A model on the device, or offloaded to the host, with its first runner."""

    way: Way
    first: Runner | OffloadRunner

    def runner(
        self, token_budget: int, costs: BatchCosts | None = None, capture: Capture | None = None
    ) -> Runner | OffloadRunner:
        """The first runner with other batches; it starts from the prefix of all prompts, and replays with a capture."""
        runner, planner = copy.copy(self.first), self.first.planner
        runner.planner = replace(planner, token_budget=token_budget, costs=costs or planner.costs)
        if isinstance(runner, Runner):
            runner._graphs = Graphs(runner._eager, capture) if capture else None
        else:
            runner.group_tokens = token_budget  # groups of one batch
        return runner


def load(way: Way, config: ModelConfig, place: torch.device, max_tokens: int) -> Loaded:
    """Make the weights where the way keeps them, and load them as an engine does."""
    source = RandomSource(config, place, way.recipe(config))
    norm, rows = source.read("norm.weight").float(), source.head_rows(ANSWERS).float()
    prompt: Any = SimpleNamespace(prefix_ids=random_prefix(config.vocab_size).tolist())
    options = ResolvedOptions(way.weights, way.dtype, place, max_tokens, "head", max_tokens)
    classifier = Classifier(source, prompt, Head(norm, rows, config.rms_norm_eps), options)
    return Loaded(way, load_runner(classifier, way.predicted(config, max_tokens, max_tokens), positions=max_tokens))
