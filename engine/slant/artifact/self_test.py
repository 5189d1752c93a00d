"""Known answers: a few texts whose probabilities are stored with an artifact and asked for again at every load.

A broken build, driver or file may still answer, with NaN, with the same thing for every text, or with nonsense; this
finds out before the first real text does. The stored answers are those of the artifact itself, computed in fp32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from slant.errors import CheckpointError
from slant.prompt.prompt import Prompt
from slant.scores import Scores

TEXTS = (
    "The council voted five to two on Tuesday to repair the bridge, and work begins in the spring.",
    "Working families pay while the wealthiest few write the rules. Health care is a right.",
    "Government should get out of the way, cut taxes, and let free people build and prosper.",
    "Rain.",
)
# |dp|: far above what rounding does to a classifier, far below what a broken one does.
TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.1}
_KEYS = {"template_sha256", "answers", "texts", "probabilities"}


def record(prompt: Prompt, scores: Scores) -> dict[str, Any]:
    """What an artifact stores: the scores of ``TEXTS``, which were asked through ``prompt``.

    Raises CheckpointError if the answers could not tell a working model from a broken one.
    """
    _check_sound(scores.probabilities)
    rows = [[round(float(p), 6) for p in row] for row in scores.probabilities]
    return {**_question(prompt), "texts": list(TEXTS), "probabilities": rows}


def applies(probe: Mapping[str, Any], prompt: Prompt) -> bool:
    """Whether the answers were given to this template and these answers; a user's own get others."""
    question = _question(prompt)
    return {key: probe.get(key) for key in question} == question


def check(probe: Mapping[str, Any], scores: Scores, dtype: torch.dtype) -> None:
    """Compare the scores of ``probe["texts"]``, computed in ``dtype``, with the stored ones.

    Raises CheckpointError if they are not finite, all the same, or further off than the dtype explains.
    """
    found = scores.probabilities
    _check_sound(found)
    stored = np.array(probe["probabilities"], dtype=np.float64)
    if stored.shape != found.shape:
        raise CheckpointError("the artifact's known answers are not of its labels; quantize again.")
    off = float(np.abs(found - stored).max())
    if off > TOLERANCES[dtype]:
        raise CheckpointError(
            f"the model's answers to known texts are off by {off:.3f} in probability, over {TOLERANCES[dtype]}: "
            "something computes wrongly here; try device=cpu or weights=fp32, and get the artifact again."
        )


def parse(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stored object, checked for its form; raises CheckpointError."""
    rows = raw.get("probabilities")
    if (
        raw.keys() != _KEYS
        or not isinstance(raw["texts"], list)
        or not all(isinstance(text, str) for text in raw["texts"])
        or not isinstance(rows, list)
        or len(rows) != len(raw["texts"])
        or len({len(row) if isinstance(row, list) else -1 for row in rows}) != 1
    ):
        raise CheckpointError("the artifact's known answers are damaged; quantize again.")
    return raw


def _question(prompt: Prompt) -> dict[str, Any]:
    return {
        "template_sha256": hashlib.sha256(prompt.template.encode()).hexdigest(),
        "answers": list(prompt.labels),
    }


def _check_sound(probabilities: np.ndarray) -> None:
    if not np.isfinite(probabilities).all():
        raise CheckpointError("the model answers known texts with NaN; its weights are damaged.")
    if np.ptp(probabilities, axis=0).max() < 1e-6:
        raise CheckpointError("the model gives every known text the same answer; its weights are damaged.")
