"""What the CPU suite runs: a checkpoint as the engine loads it, texts of given lengths, and the FLOPs they take.

Token ids are random. Every text starts with the prompt's prefix, from whose state the runner starts, as in real use; a
length is what is computed after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from slant.batching.batches import Ids
from slant.batching.costs import forward_flops
from slant.engine import Engine
from slant.model.config import ModelConfig
from slant.model.qwen3_5 import Model
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner
from slant_kernels.linear import Weight

LONGEST = 8192  # tokens after the prefix
MATRICES = (
    "DeltaNet.in_qkvz",
    "DeltaNet.in_ab",
    "DeltaNet.out",
    "Attention.in_kvq",
    "Attention.out",
    "Block.gate_up",
    "Block.down",
)


def load(folder: Path) -> Runner:
    """The runner of an engine that scores prompts of up to 8192 tokens after the prefix."""
    prefix = len(Prompt.load(folder).prefix_ids)
    runner = Engine.load(folder, device="cpu", max_tokens=LONGEST + prefix).runner
    assert isinstance(runner, Runner)
    return runner


def texts(runner: Runner, lengths: Sequence[int]) -> list[Ids]:
    """Random texts of these lengths after the prefix, the same in every run."""
    rng, vocabulary = np.random.default_rng(0), runner.model.config.vocab_size
    bodies = [rng.integers(0, vocabulary, length, dtype=np.int32) for length in lengths]
    return [np.concatenate([runner.prefix_ids, body]) for body in bodies]


def run(runner: Runner, sequences: list[Ids]) -> int:
    """Score the texts; the tokens that were computed, padding included."""
    return sum(result.computed_tokens for result in runner.run(sequences))


def flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """What the linear layers and the attentions take for texts of these lengths after the prefix."""
    token, square = forward_flops(config)
    return sum(token * length + square * length**2 for length in lengths)


def weight_bytes(runner: Runner) -> float:
    """The weights of the linear layers, which every batch reads."""
    token, _ = forward_flops(runner.model.config)
    return token / 2 * runner.model.dtype.itemsize


def dtype(runner: Runner) -> str:
    """What the model computes in: "bfloat16" or "float32"."""
    return str(runner.model.dtype).removeprefix("torch.")


def matrices(model: Model) -> dict[str, list[Weight]]:
    """The merged matrices ``[N, K]`` by their names in MATRICES: those of one shape, a layer each."""
    found: dict[str, list[Weight]] = {name: [] for name in MATRICES}
    for block in model.blocks:
        for owner in (block.mixer, block):
            for name, value in vars(owner).items():
                parts = value if isinstance(value, tuple) else (value,)
                found.get(f"{type(owner).__name__}.{name}", []).extend(parts)
    return {name: [one for one in some if tuple(one.shape) == tuple(some[0].shape)] for name, some in found.items()}
