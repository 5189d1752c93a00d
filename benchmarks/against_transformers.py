"""The engine's runner and transformers on one random model, the same token sequences, in turn.

Both get token ids, so tokenization is in neither figure. transformers runs as the model card does (left padding,
``logits_to_keep=1``) in batches of 8 sorted by length, as a fair user would; the runner starts from the prefix of 30
tokens that all sequences share, which is part of what it offers. One row of the result file is one workload.

Run ``python benchmarks/against_transformers.py FOLDER`` with a folder that ``random_model.py`` wrote.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from environment import append, environment, percentiles
from slant.batches import Ids
from slant.checkpoint import Checkpoint
from slant.classifier import TOKEN_BUDGETS
from slant.execution import Head
from slant.model import Model
from slant.reference import last_logits, load_model
from slant.runner import Runner
from slant.weights import Weights

ANSWERS = (15, 16, 17, 18, 19)
PREFIX, SUFFIX = 30, 58  # tokens of the prompt around an article, with Qwen3.5's tokenizer
PEER_BATCH = 8


def workloads(rng: np.random.Generator) -> dict[str, list[Ids]]:
    """Token sequences by workload; posts are about 60 tokens and the prompt around them."""
    posts = np.clip(rng.lognormal(np.log(55), 0.5, 32), 5, 280).astype(int) + PREFIX + SUFFIX
    lengths = {"1x16": [PREFIX + 16], "1x128": [128], "8x128": [128] * 8, "1x1024": [1024], "posts": list(posts)}
    prefix = rng.integers(0, 10_000, PREFIX)
    bodies = {name: [rng.integers(0, 10_000, n - PREFIX) for n in each] for name, each in lengths.items()}
    return {name: [np.concatenate([prefix, body]).astype(np.int32) for body in each] for name, each in bodies.items()}


def seconds(run: Callable[[list[Ids]], None], sequences: list[Ids]) -> float:
    start = time.perf_counter()
    run(sequences)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of runs a workload")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    loads = workloads(np.random.default_rng(0))
    checkpoint = Checkpoint.open(options.folder)
    model = Model(Weights(checkpoint, torch.bfloat16, torch.device("cpu")), 2048)
    norm, rows = checkpoint.read("norm.weight").float(), checkpoint.head_rows(ANSWERS).float()
    head = Head(norm, rows, checkpoint.config.rms_norm_eps)
    prefix = next(iter(loads.values()))[0][:PREFIX].tolist()
    runner = Runner(model, head, prefix, max_tokens=2048, token_budget=TOKEN_BUDGETS["cpu"])
    peer = load_model(options.folder, torch.bfloat16)

    def ours(sequences: list[Ids]) -> None:
        for _ in runner.run(sequences):
            pass

    def theirs(sequences: list[Ids]) -> None:
        ordered = sorted(sequences, key=len)
        for start in range(0, len(ordered), PEER_BATCH):
            last_logits(peer, [ids.tolist() for ids in ordered[start : start + PEER_BATCH]], ANSWERS)

    table = Table("workload", "texts", "tokens", "ours s", "theirs s", "ours tok/s", "theirs tok/s", "ratio")
    console = Console()
    for name, sequences in loads.items():
        with console.status(name):
            ours(sequences), theirs(sequences)
            pairs = [(seconds(ours, sequences), seconds(theirs, sequences)) for _ in range(options.pairs)]
        a, b = [list(column) for column in zip(*pairs, strict=True)]
        ratio = median(y / x for x, y in pairs)
        tokens = sum(map(len, sequences))
        append(
            "against_transformers",
            environment()
            | {"model": options.folder.name, "workload": name, "texts": len(sequences), "tokens": tokens}
            | {"slant_s": percentiles(a), "transformers_s": percentiles(b), "ratio": round(ratio, 3)},
        )
        rate = [f"{tokens / median(column):.0f}" for column in (a, b)]
        table.add_row(
            name, str(len(sequences)), str(tokens), f"{median(a):.3f}", f"{median(b):.3f}", *rate, f"{ratio:.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
