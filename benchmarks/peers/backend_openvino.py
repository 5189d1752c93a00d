"""OpenVINO's CPU plugin, without optimum: token ids in, the logits of the last position out.

Options: model (a folder with openvino_model.xml), precision ("bf16" or "f32", what is computed in), threads, answers.

The exported model has lost the branch that hides left padding from the recurrent layers, so padded rows would get
other answers: only texts of one length share a call. Its language-model head is cut down to the last position, as
OpenVINO's own text-generation library does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from harness.batching import by_length

PACKAGES = ("openvino",)


def load(options: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[float]]]:
    core = ov.Core()
    model = core.read_model(Path(options["model"]) / "openvino_model.xml")
    last_position_only(model)
    settings = {
        "INFERENCE_NUM_THREADS": options["threads"],
        "INFERENCE_PRECISION_HINT": options["precision"],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    answers: Sequence[int] = options["answers"]

    def batch(texts: list[list[int]]) -> list[list[float]]:
        ids = np.array(texts, dtype=np.int64)
        request.reset_state()
        result = request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy(),
                "beam_idx": np.arange(len(ids), dtype=np.int32),
            }
        )
        return result["logits"][:, -1, answers].tolist()

    return partial(by_length, batch, padded=False)


def last_position_only(model: ov.Model) -> None:
    """Let the product with the head's matrix read the last position's hidden state only."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    start, stop, step, axis = (ops.constant([value], np.int64) for value in (-1, np.iinfo(np.int64).max, 1, 1))
    last = ops.slice(node.input_value(0), start, stop, step, axis)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
