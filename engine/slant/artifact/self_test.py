"""The self-test: a few texts whose probabilities are stored with an artifact and computed again at every load.

A broken build, driver or file may still answer, with NaN, with the same thing for every text, or with nonsense; this
finds out before the first real text does. The stored answers are those of the artifact itself, computed in fp32 and
asked through the artifact's own prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from slant.artifact.arithmetic import Arithmetic
from slant.errors import CheckpointError
from slant.validation import RECORD, Sha256, table

TEXTS = (
    "The council voted five to two on Tuesday to repair the bridge, and work begins in the spring.",
    "Working families pay while the wealthiest few write the rules. Health care is a right.",
    "Government should get out of the way, cut taxes, and let free people build and prosper.",
    "Rain.",
)
# |dp|: far above what rounding, or 8-bit activations, do to a classifier, far below what a broken one does.
TOLERANCES = {"fp32": 0.01, "bf16": 0.1, "int8": 0.1, "w4a8": 0.1, "fp8": 0.2}


class Stored(BaseModel):
    """``probabilities``: a row for each of the ``texts``, with a column for each of the ``answers``."""

    model_config = RECORD

    template_sha256: Sha256
    answers: list[str]
    texts: Annotated[list[str], Field(min_length=1)]
    probabilities: list[list[Annotated[float, Field(ge=0, le=1)]]]

    @model_validator(mode="after")
    def _shape(self) -> Stored:
        rows, columns = len(self.texts), len(self.answers)
        if [len(row) for row in self.probabilities] != [columns] * rows:
            raise ValueError(f"probabilities are not {rows} rows of {columns}, as there are texts and answers")
        return self


def record(template_sha256: str, answers: Iterable[str], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """What an artifact stores: its probabilities ``[4, k]`` for ``TEXTS``, asked through the prompt that is named.

    Raises CheckpointError if the answers could not tell a working model from a broken one.
    """
    _check_sound(probabilities)
    rows = [[round(float(p), 6) for p in row] for row in probabilities]
    prompt = {"template_sha256": template_sha256, "answers": list(answers)}
    return {**prompt, "texts": list(TEXTS), "probabilities": rows}


def check(stored: Mapping[str, Any], probabilities: NDArray[np.float32], arithmetic: Arithmetic) -> None:
    """Compare the probabilities of ``stored["texts"]`` with the stored ones.

    Raises CheckpointError if they are not finite, all the same, or further off than the arithmetic explains.
    """
    _check_sound(probabilities)
    expected = np.array(stored["probabilities"], dtype=np.float64)
    if expected.shape != probabilities.shape:
        raise CheckpointError("the artifact's self-test is not of its labels; quantize again.")
    off = float(np.abs(probabilities - expected).max())
    tolerance = TOLERANCES.get(arithmetic.weights, TOLERANCES[arithmetic.dtype])
    if off > tolerance:
        raise CheckpointError(
            f"the model's answers to known texts are off by {off:.3f} in probability, over {tolerance}: "
            "something computes wrongly here; try the device cpu or the weights fp32, and get the artifact again."
        )


def parse(raw: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The stored object, checked for its form; raises CheckpointError. ``source`` names it."""
    stored = table(Stored, raw, f"{source} is damaged", CheckpointError, "quantize again")
    return stored.model_dump()


def _check_sound(probabilities: np.ndarray) -> None:
    if not np.isfinite(probabilities).all():
        raise CheckpointError("the model answers known texts with NaN; its weights are damaged.")
    if np.ptp(probabilities, axis=0).max() < 1e-6:
        raise CheckpointError("the model gives every known text the same answer; its weights are damaged.")
