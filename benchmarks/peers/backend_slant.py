"""slant: token ids in, the answers' logits out, from the state that it keeps of the prompt's prefix.

Options: model (a checkpoint or a quantized artifact), weights (as ``Engine.load`` takes them), max_tokens, threads, and

tier: the name of one of ``slant.runtime.memory``, which gets just the memory that it asks for; by default no limit.
keep_prefix: False computes the prefix with each text, as the peers do.

slant plans its batches itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slant.engine import Engine
from slant.runtime.classifier import Classifier
from slant.runtime.load import demand
from slant.runtime.memory import tiers
from slant.runtime.runner import Runner

PACKAGES = ("slant", "torch")


def load(options: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[float]]]:
    model, weights, max_tokens = options["model"], options["weights"], options["max_tokens"]
    memory: str | int = "auto"
    if tier := options.get("tier"):
        needs = demand(Classifier.open(model, weights=weights, device="cpu", max_tokens=max_tokens), max_tokens)
        memory = next(way.peak for way in tiers(needs) if way.name == tier)
    engine = Engine.load(
        model,
        weights=weights,
        device="cpu",
        max_tokens=max_tokens,
        memory=memory,
        threads=options["threads"],
    )
    runner = engine.runner
    if isinstance(runner, Runner) and not options.get("keep_prefix", True):
        runner.prefix_ids = runner.prefix_ids[:0]  # then no text starts with it

    def score(sequences: list[list[int]], batch: int) -> list[list[float]]:
        answers: dict[int, list[float]] = {}
        for result in runner.run([np.array(ids, dtype=np.int32) for ids in sequences]):
            answers.update(zip(result.rows, result.logits.tolist(), strict=True))
        return [answers[row] for row in range(len(sequences))]

    return score
