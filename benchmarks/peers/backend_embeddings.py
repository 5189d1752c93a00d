"""Sentence embeddings, the cheap alternative: texts in, their own tokenization included.

The answers are the embeddings: a linear classifier on top takes microseconds a text, and how good its labels are is
measured in ``baselines``. Options: model (an installed package that carries a sentence-transformers model), threads.
The model's own limit stays: MiniLM does not read beyond 256 word pieces of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from baselines.packaged import Packaged

PACKAGES = ("sentence_transformers", "transformers", "torch")


def load(options: dict[str, Any]) -> Callable[[list[str], int], list[list[float]]]:
    torch.set_num_threads(options["threads"])
    embed = Packaged(options["model"], (options["model"],)).embedder()
    return lambda texts, batch: embed(texts, batch).tolist()
