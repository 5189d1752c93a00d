"""Make the demo checkpoint that ships with slant, with one command: ``python benchmarks/make_demo.py --work FOLDER``.

A Qwen3.5 text model of 1.4 million parameters learns to place a passage of political speech on a scale of five. Its
labels are the quintiles of a phrase index fitted on the training speakers (demo_task.py), so that what it has to learn
is known exactly: which phrases count, how much, and that their mean decides.

First a base is pre-trained: it continues the speeches word by word, and a scaffold makes it know, at every word, the
weight of the phrases that end there. It sees no digit as an answer. Then ``slant finetune`` makes a classifier of it.

Everything random is seeded; the figures in the README are measured on the saved weights and on speakers of whom neither
the tokenizer nor the index nor the model has seen a word.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from demo_base import STEPS, make_base
from demo_card import Made, write_card
from demo_task import Task, write_all
from slant import demo
from slant.cli import app as cli

# So small a model wants a far higher rate than the recipe's 1e-4, and more steps; the rest is the recipe's.
FINETUNING = ["--learning-rate", "3e-3", "--batch-size", "16", "--accumulation", "1"]
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo checkpoint that ships with slant.")
    parser.add_argument("--output", type=Path, default=demo.FOLDER, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="new folder of the task, the base and the fine-tuning")
    parser.add_argument("--steps", type=int, default=STEPS, help="pre-training steps")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of torch; on a busy machine one is faster than two"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    if work.exists():
        parser.error(f"{work} exists; name a new folder.")
    work.mkdir(parents=True)
    torch.set_num_threads(arguments.threads)

    task = Task.make()
    passages = write_all(task, work / "task")
    make_base(task, arguments.steps, work / "base")
    command = ["finetune", str(work / "base"), "--data", str(work / "task" / "train.csv")]
    if code := cli.run([*command, "--output", str(work / "tuned"), *FINETUNING]):
        raise SystemExit(code)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(work / "tuned" / name, arguments.output / name)

    made = Made(arguments.steps, len(task.training), len(passages["train.csv"]), FINETUNING)
    print(write_card(arguments.output, work / "base", passages["test.csv"], passages["long.csv"], made))


if __name__ == "__main__":
    main()
