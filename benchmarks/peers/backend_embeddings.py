"""Sentence embeddings, the cheap alternative: texts in, their own tokenization included.

Options: model (an installed package that carries a sentence-transformers model in its folder ``model``), threads, and
training: a JSON file of [text, label] pairs. With it a ridge classifier is fitted while loading, and the answers are
its five decision values; without, they are the embeddings, whose time is the time of an answer to within microseconds.
The model's own limit stays: MiniLM does not read beyond 256 word pieces of a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

PACKAGES = ("sentence_transformers", "transformers", "torch", "scikit-learn")
BATCH = 32


def load(options: dict[str, Any]) -> Callable[[list[str], int], list[list[float]]]:
    torch.set_num_threads(options["threads"])
    package = find_spec(options["model"])
    if package is None or package.origin is None:
        raise ModuleNotFoundError(f"the package {options['model']}, which carries the model, is not installed.")
    model = SentenceTransformer(str(Path(package.origin).with_name("model")), device="cpu")

    def embed(texts: list[str], batch: int) -> np.ndarray:
        return model.encode(texts, batch_size=batch, show_progress_bar=False)

    if "training" not in options:
        return lambda texts, batch: embed(texts, batch).tolist()
    texts, labels = zip(*json.loads(Path(options["training"]).read_text(encoding="utf-8")), strict=True)
    classifier = fitted(embed(list(texts), BATCH), labels)
    return lambda texts, batch: classifier.decision_function(embed(texts, batch)).tolist()


def fitted(vectors: np.ndarray, labels: tuple[int, ...]) -> Any:
    """A ridge classifier on scaled features, its penalty chosen by leave-one-out."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(-3, 2, 11))).fit(vectors, labels)
