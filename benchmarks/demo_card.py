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

CARD = Path(__file__).with_suffix(".md")  # with the figures' places in braces


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
    text = CARD.read_text(encoding="utf-8").format(
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
