"""LoRA's rank by its alpha on a small encoder: one tuning a cell, on the same texts, and a picture of them.

    python benchmarks/sweep_lora.py --train train.csv --test test.csv --label party --group family

A cell that is in the cache already is not tuned again, so the command can be stopped and goes on. 1,200 training texts
are drawn, with each label's share kept. The cells are figures of the test set: to choose the best of them by it would
flatter it, so the comparison's own row is the one that was fixed before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import torch
from rich.console import Console

import pictures
from baselines.data import Task
from baselines.lora import Tuning
from baselines.systems import facts, fitted, tuned
from compare_baselines import columns, described, figures
from harness.rows import Row, append, environment, read

RANKS, ALPHAS = (4, 8, 16), (8, 16, 32)
RESULT = "lora_sweep"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    columns(parser)
    parser.add_argument("--training-texts", type=int, default=1200)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    task = Task.read(options.train, options.test, text=options.text, label=options.label, group=options.group)
    train, test = task.train.stratified(options.training_texts), task.test
    console, row = Console(), {}
    for rank, alpha in product(RANKS, ALPHAS):
        system = tuned(f"minilm-lora-r{rank}-a{alpha}", Tuning(rank, alpha))
        folder = fitted(system, train, options.cache)
        labels = system.load(folder, test.names)(test.texts).argmax(-1)
        row = environment() | described(system, train, test) | facts(folder) | figures(test, labels)
        row |= {"task": task.name}
        append(RESULT, row, options.results)
        console.print(f"rank {rank}, alpha {alpha}: accuracy {row['accuracy'][0]:.3f}")
    pictures.lora_sweep(newest(read(options.results / f"{RESULT}.jsonl"), row), options.results / f"{RESULT}.svg")


def newest(rows: Sequence[Row], like: Row) -> list[Row]:
    """The newest row of each rank and alpha, of the same data and tuning as a row."""
    same = ("data", "task", "training_texts", "epochs", "rate", "batch", "seed", "bf16")
    alike = [row for row in rows if all(row[key] == like[key] for key in same)]
    return list({(row["rank"], row["alpha"]): row for row in alike}.values())


if __name__ == "__main__":
    main()
