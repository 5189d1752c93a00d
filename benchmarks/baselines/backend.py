"""A fitted system in a process of its own, for ``harness/worker.py``: texts in, a list of numbers a text out.

Options: system (its name), folder (where it was fitted), names (of the labels), threads, and what ``systems`` takes to
know it: models, bases and weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from baselines.systems import systems

PACKAGES = {"load": ("slant", "torch", "transformers", "sentence-transformers", "scikit-learn")}


def load(options: dict[str, Any]) -> Callable[[list[str], int], list[list[float]]]:
    torch.set_num_threads(options["threads"])
    models, bases = ({name: Path(path) for name, path in options[kind].items()} for kind in ("models", "bases"))
    known = {system.name: system for system in systems(models, bases, options["weights"])}
    predict = known[options["system"]].load(Path(options["folder"]), options["names"])
    return lambda texts, batch: predict(texts).tolist()
