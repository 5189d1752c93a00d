"""transformers on the same shapes, beside the runner: a random bf16 model, made on the device.

As a fair user would run it: as the model card says (left padding, ``logits_to_keep=1``), batches of 8 sorted by length,
in inference mode, and with flash-linear-attention's kernels if that is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from gpu.device import in_turn
from gpu.model_measures import Bench
from harness.rows import Row
from harness.workloads import ANSWERS
from slant.batching.batches import Ids
from slant.evaluation.reference import last_logits

OURS, THEIRS = "slant", "transformers"
PEER_BATCH = 8
# What only says what the model is; the rest are settings.
_NAMES = ("architectures", "model_type")


def build(shape: dict[str, Any], place: torch.device) -> Any:
    """A bf16 model of the shape, initialised by transformers on the device."""
    from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

    settings = Qwen3_5TextConfig(**{key: value for key, value in shape.items() if key not in _NAMES})
    with torch.device(place):
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16).eval()
    return model.requires_grad_(False)


def run(model: Any, texts: Sequence[Ids]) -> None:
    """All texts in batches, the shortest first."""
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), PEER_BATCH):
        last_logits(model, [ids.tolist() for ids in ordered[start : start + PEER_BATCH]], ANSWERS)


def beside(bench: Bench, name: str, texts: Sequence[Ids], runs: dict[str, Any]) -> Iterator[Row]:
    """A row for each contender, ours first; one that fails has a reason instead of figures."""
    device = bench.device
    ready, reasons = {}, {}
    for by, call in runs.items():
        try:
            call(texts)  # compiles and warms up
            ready[by] = partial(call, texts)
        except Exception as error:  # another library's failure is its own; ours would end the run
            if by == OURS:
                raise
            reasons[by] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        device.free()
    timed = in_turn(device.seconds, ready, bench.scope.rounds)
    fla = importlib.util.find_spec("fla") is not None
    about = {"mixture": name, "peer_batch": PEER_BATCH, "fla": fla}
    for by, seconds in timed.items():
        yield about | bench.throughput_row(name, texts, seconds) | {"by": by}
    for by, reason in reasons.items():
        yield about | {"by": by, "reason": reason}
