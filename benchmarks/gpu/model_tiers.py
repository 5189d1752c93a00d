"""The whole model of random weights in each way it can be held, and what ``slant.runtime.memory`` predicts for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.workloads import ANSWERS, random_prefix
from random_model import RandomSource
from slant.artifact.recipe import Recipe
from slant.batching.costs import Costs
from slant.model.config import ModelConfig
from slant.model.network import Model
from slant.model.weights import Weights
from slant.runtime import tiers
from slant.runtime.execution import Capture, Head
from slant.runtime.offload import LayerwiseRunner
from slant.runtime.runner import Runner
from slant_kernels.merged import Scratch

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Way:
    """``kind`` is a tier's name in ``slant.runtime``; ``most`` what a text of 8192 tokens is meant to need in bytes."""

    name: str
    recipe: str | None
    kind: str
    most: float | None = None


BF16_RESIDENT = Way("bf16", None, "resident")
# In the order of what is asked first.
WAYS = (
    BF16_RESIDENT,
    Way("hqq4", "hqq4", "packed"),
    Way("hqq4, host embedding", "hqq4", "packed, host", most=3.0e9),
    Way("hqq4 streamed", "hqq4", "streamed", most=1.0e9),
    Way("hqq8", "hqq8", "packed"),
)


@dataclass
class Loaded:
    """A model on the device, or streamed to it (then there is no ``model``)."""

    way: Way
    head: Head
    model: Model | None
    weights: Weights
    max_tokens: int
    place: torch.device

    _streaming: LayerwiseRunner | None = None

    def runner(
        self, token_budget: int, costs: Costs | None = None, capture: Capture | None = None
    ) -> Runner | LayerwiseRunner:
        """Starts from the prefix of all prompts. What is streamed has one runner, set anew; it cannot be captured."""
        ids, limits = random_prefix(self.weights.source.config.vocab_size).tolist(), {"max_tokens": self.max_tokens}
        if self.model is not None:
            limits |= {"token_budget": token_budget}
            return Runner(self.model, self.head, ids, **limits, costs=costs, capture=capture)
        if self._streaming is None:
            limits |= {"token_budget": token_budget, "group_tokens": token_budget}
            self._streaming = LayerwiseRunner.streaming(self.weights, self.place, self.head, ids, **limits)
        self._streaming.token_budget = self._streaming.group_tokens = token_budget  # groups of one batch
        self._streaming.costs = costs
        return self._streaming


def load(way: Way, config: ModelConfig, place: torch.device, max_tokens: int) -> Loaded:
    """Make the weights where the way keeps them; what is streamed is read when a runner is made."""
    recipe = Recipe.named(way.recipe) if way.recipe else None
    source = RandomSource(config, place, recipe)
    norm, rows = source.read("norm.weight").float(), source.head_rows(ANSWERS).float()
    head = Head(norm, rows, config.rms_norm_eps)
    streamed = way.kind == "streamed"
    scratch = Scratch(BF16, place) if way.kind != "resident" else None
    weights = Weights(source, BF16, torch.device("cpu") if streamed else place, scratch)
    model = None if streamed else Model(weights, max_tokens, host_embedding=way.kind == "packed, host")
    return Loaded(way, head, model, weights, max_tokens, place)


def predicted(way: Way, config: ModelConfig, max_tokens: int, token_budget: int) -> tiers.Tier:
    """What the engine reckons with on a GPU."""
    recipe = Recipe.named(way.recipe) if way.recipe else None
    ids = len(random_prefix(config.vocab_size))
    demand = tiers.MemoryRequest(config, recipe, BF16, "cuda", len(ANSWERS), ids, max_tokens, token_budget)
    return next(tier for tier in tiers.tiers(demand) if tier.name == way.kind)
