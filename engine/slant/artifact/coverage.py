"""Whether an artifact's certificate covers the scores of a loaded model, and what it promises of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.artifact import MANIFEST
from slant.artifact.arithmetic import Arithmetic
from slant.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Coverage:
    """``reason`` says in a clause why no certificate covers the scores; it is empty where one does.

    Then ``flip_rate`` is the share of label flips that it measured, and a row with a margin above ``stable_margin`` is
    called stable. A text's gap is how far its two most drifted labels moved apart, max_i (q_i - p_i) - min_i (q_i -
    p_i), where p are the reference's probabilities and q ours; a text with a margin larger than its own gap has the
    reference's label. The gap of a new text is unknown, so ``stable_margin`` is the 99th percentile of the gaps of the
    certified texts: a percentile measured on those texts, not a promise. About one text in a hundred like them drifts
    further, and may flip if its gap exceeds its margin; texts of another kind may drift more.
    """

    reason: str
    flip_rate: float | None = None
    stable_margin: float | None = None

    def require(self, max_flip_rate: float) -> None:
        """Raise CheckpointError unless a certificate covers the scores and measured no larger share of flips."""
        if self.flip_rate is None:
            raise CheckpointError(f"{self.reason}, and max_flip_rate asks for one: slant drift --certify makes it.")
        if self.flip_rate > max_flip_rate:
            raise CheckpointError(
                f"by its certificate the model flips {self.flip_rate:.2%} of the labels, over the limit of "
                f"{max_flip_rate:.2%}; raise max_flip_rate or use a model of more bits."
            )


def coverage(
    stored: Mapping[str, Any] | None, arithmetic: Arithmetic, template_sha256: str, answers: tuple[str, ...], model: str
) -> Coverage:
    """Compare a stored certificate with what was loaded: its arithmetic and its prompt.

    ``model`` is the artifact's folder. Raises CheckpointError for a certificate that is damaged.
    """
    if stored is None:
        return Coverage(f"{model} has no certificate")
    from slant.artifact.certificate import parse

    made = parse(stored, f"the certificate in {Path(model) / MANIFEST}")
    if made.arithmetic is None:
        return Coverage(f"the certificate of {model} does not say what it was measured with, so it covers nothing")
    if (made.prompt.template_sha256, made.prompt.answers) != (template_sha256, answers):
        return Coverage(f"the certificate of {model} is for another prompt, so it does not cover this one")
    if differences := made.arithmetic.differences(arithmetic):
        return Coverage(f"the certificate of {model} does not cover what was loaded ({differences})")
    figures = made.drift.overall.figures
    return Coverage("", figures.flip_rate, figures.gap.p99)
