"""transformers as the model card runs it: left-padded batches, the last position's logits only.

Options: model (a checkpoint folder), weights ("bf16" or "fp32"), threads, answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.batching import by_length
from slant.evaluation.reference import DTYPES, last_logits, load_model

PACKAGES = ("transformers", "torch")


def load(options: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[float]]]:
    torch.set_num_threads(options["threads"])
    model = load_model(Path(options["model"]), DTYPES[options["weights"]])

    def batch(texts: list[list[int]]) -> list[list[float]]:
        return last_logits(model, texts, options["answers"]).tolist()

    return partial(by_length, batch)
