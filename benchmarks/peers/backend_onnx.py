"""ONNX Runtime's CPU provider on a model of onnxruntime-genai's builder: token ids in, the last position's logits out.

Options: model (a folder with model.onnx and genai_config.json), threads, answers.

The attention operator takes padding on the right only and the pruned head answers for the last position, so a padded
row cannot be answered: only texts of one length share a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from harness.batching import by_length

PACKAGES = ("onnxruntime",)
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def load(options: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[float]]]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    folder = Path(options["model"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    head_dim = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["head_size"]
    states = [node for node in session.get_inputs() if node.name.startswith("past")]
    answers: Sequence[int] = options["answers"]

    def empty(node: Any, rows: int) -> np.ndarray:
        sizes = {"batch_size": rows, "past_sequence_length": 0, "kv_cache_dim": head_dim}
        return np.zeros([sizes.get(size, size) for size in node.shape], DTYPES[node.type])

    def batch(texts: list[list[int]]) -> list[list[float]]:
        ids = np.array(texts, dtype=np.int64)
        positions = np.broadcast_to(np.arange(ids.shape[1]), (3, *ids.shape)).copy()
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
        feed |= {node.name: empty(node, len(ids)) for node in states}
        (logits,) = session.run(["logits"], feed)
        return logits[:, -1, answers].tolist()

    return partial(by_length, batch, padded=False)
