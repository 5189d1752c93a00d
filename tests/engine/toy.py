"""A task that a tiny model learns in seconds: the class is the capital letter somewhere in the text."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import classifier
import tiny
from slant.training.data import TrainingTable
from slant.training.recipe import TrainingRecipe

LETTERS = "XYZ"  # of the classes 0, 1, 2
QUICK: dict[str, Any] = {"max_tokens": 200, "warmup_steps": 2, "learning_rate": 5e-3, "delta_net": True}


def rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 10 to 40 characters with their labels, the classes in turn; no text is there twice."""
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        label = len(made) % 3
        characters = [draw.choice("abcdefgh ") for _ in range(draw.randint(6, 36))]
        characters.insert(draw.randint(0, len(characters)), 2 * LETTERS[label])
        made.setdefault(f"q{''.join(characters)}.", str(label))
    return list(made.items())


def write(
    path: Path, lines: Iterable[tuple[object, ...]], header: tuple[str, ...] = ("text", "label")
) -> TrainingTable:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return TrainingTable(path)


def base(folder: Path, shape: str = "grouped", dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    """A tiny random classifier, its matrices stored in ``dtype``."""
    classifier.write(folder, shape)
    tiny.save(shape, folder, dtype, **saving)
    return folder


def recipe(**changes: Any) -> TrainingRecipe:
    return TrainingRecipe(**{**QUICK, **changes})
