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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from demo_base import BATCH_TOKENS, LANGUAGE, PROMPTED, STEPS, make_base
from demo_task import LABELS, Passage, Task, write_all
from harness.tables import interval, markdown
from slant import demo
from slant.cli import app as cli
from slant.evaluation.assess import Assessment, assess
from slant.evaluation.reference import Reference

CARD = Path(__file__).with_name("demo_card.md")  # with the figures' places in braces
# So small a model wants a far higher rate than the recipe's 1e-4, and more steps; the rest is the recipe's.
FINETUNING = ["--learning-rate", "3e-3", "--batch-size", "16", "--accumulation", "1"]
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def answers(folder: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    """Labels int64 ``[texts]`` by the checkpoint in ``folder``, run as a model card would, in float32."""
    return Reference.load(folder, weights="fp32").score(texts, batch_size=16).label


def judge(passages: Sequence[Passage], labels: NDArray[np.int64]) -> Assessment:
    """Labels int64 ``[passages]`` against the passages' own; what is drawn for the intervals is families."""
    gold = np.array([passage.label for passage in passages])
    return assess(gold, labels, classes=LABELS, groups=np.array([passage.family for passage in passages]))


def row(name: str, found: Assessment) -> list[str]:
    """A row of the card's table, in the order of accuracy, mean absolute error and macro-F1."""
    return [name, *(interval((e.value, e.low, e.high)) for e in (found.accuracy, found.mae, found.macro_f1))]


def write_card(folder: Path, base: Path, short: Sequence[Passage], long: Sequence[Passage], **made: object) -> str:
    """Measure the checkpoint in ``folder`` as saved, write its README.md and return the table of figures.

    ``base`` is the model before it was fine-tuned, ``short`` and ``long`` are held-out passages, ``made`` says how.
    """
    texts, long_texts = ([passage.text for passage in some] for some in (short, long))
    tuned = judge(short, answers(folder, texts))
    guess = tuned.baseline.label
    rows = [
        row(f"this checkpoint, {len(short)} passages of 2 to 6 sentences", tuned),
        row("its base, before fine-tuning", judge(short, answers(base, texts))),
        row(f"always class {guess}, the most frequent", judge(short, np.full(len(short), guess))),
        row(f"this checkpoint, {len(long)} passages of 12 sentences", judge(long, answers(folder, long_texts))),
    ]
    bundled = [passage["text"] for passage in demo.passages()]
    counts = np.bincount(answers(folder, bundled), minlength=LABELS)
    predicted = ", ".join(f"{count} of class {label}" for label, count in enumerate(counts))
    figures = markdown(["", "accuracy", "mean absolute error", "macro-F1"], rows)
    card = CARD.read_text(encoding="utf-8").format(
        figures=figures,
        options=" ".join(FINETUNING),
        parameters=sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values()),
        tokens=BATCH_TOKENS,
        language=LANGUAGE,
        prompted=PROMPTED,
        predicted=predicted,
        bundled=len(bundled),
        weights=(folder / "model.safetensors").stat().st_size / 1e6,
        families=tuned.groups,
        resamples=tuned.resamples,
        **made,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return f"{figures}\n\nbundled passages: {predicted}"


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

    made = {"steps": arguments.steps, "speeches": len(task.training), "passages": len(passages["train.csv"])}
    print(write_card(arguments.output, work / "base", passages["test.csv"], passages["long.csv"], **made))


if __name__ == "__main__":
    main()
