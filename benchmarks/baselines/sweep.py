"""LoRA's rank by its alpha on a small encoder: one tuning a cell, on the same texts, and a picture of them.

    python benchmarks/baselines/sweep.py --train train.csv --test test.csv --label party --group family

A cell that is in the cache already is not tuned again, so the command can be stopped and goes on. The seed's training
set had 1,200 texts; as many are drawn here, with each label's share kept. The cells are figures of the test set: to
choose the best of them by it would flatter it, so the comparison's own row is the one that was fixed before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console

from baselines.compare import columns
from baselines.data import Task
from baselines.lora import Tuning
from baselines.plots import heatmap
from baselines.quality import judge
from baselines.systems import Tuned
from environment import append, environment
from report import read

RANKS, ALPHAS = (4, 8, 16), (8, 16, 32)
RESULT = "lora_sweep"


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    task = Task.read(options.train, options.test, text=options.text, label=options.label, group=options.group)
    train = task.train.stratified(options.training_texts)
    console, rows = Console(), []
    for rank, alpha in product(options.ranks, options.alphas):
        system = Tuned(f"minilm-lora-r{rank}-a{alpha}", tuning=Tuning(rank, alpha, epochs=options.epochs))
        rows.append(environment() | judge(system, train, task.test, options.cache) | {"task": task.name})
        append(RESULT, rows[-1], options.results)
        console.print(f"rank {rank}, alpha {alpha}: accuracy {rows[-1]['accuracy'][0]:.3f}")
    heatmap(newest(read(options.results / f"{RESULT}.jsonl"), rows[-1]), options.results / f"{RESULT}.svg")


def newest(rows: Sequence[dict[str, Any]], like: dict[str, Any]) -> list[dict[str, Any]]:
    """The newest row of each rank and alpha, of the same data and tuning as a row."""
    same = ("data", "task", "training_texts", "epochs", "rate", "batch", "seed", "bf16")
    alike = [row for row in rows if all(row[key] == like[key] for key in same)]
    return list({(row["rank"], row["alpha"]): row for row in alike}.values())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    columns(parser)
    parser.add_argument("--training-texts", type=int, default=1200)
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--alphas", type=int, nargs="+", default=ALPHAS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
