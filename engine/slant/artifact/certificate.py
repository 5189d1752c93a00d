"""The certificate of an artifact: the drift from its reference, measured on which texts, with which versions and how.

A leaf: ``slant.evaluation`` measures, an engine asks ``slant.artifact.coverage``; neither is imported here.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import to_jsonable_python

from slant import __version__
from slant.artifact.arithmetic import Arithmetic
from slant.artifact.drift_record import Drift, Slice
from slant.artifact.recipe import QUANTIZING
from slant.errors import CheckpointError
from slant.prompt.prompt import Prompt
from slant.validation import Sha256, only, record, shown

FORMAT = 2  # format 1 did not record the arithmetic
METHODS = ("layerwise", "resident", "transformers")
Name = Annotated[str, Field(min_length=1)]


def _iso_8601(text: str) -> str:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a date of ISO 8601, such as 2026-01-31") from None
    return text


@dataclass(frozen=True, slots=True)
class Versions:
    """What computed the figures; transformers is None where it had no part in them."""

    slant: str
    python: str
    torch: str
    numpy: str
    transformers: str | None
    hqq: str | None


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """The prompt that both sides answered; with another template or truncation the drift is another."""

    template_sha256: Sha256
    answers: tuple[str, ...]
    max_tokens: Annotated[int, Field(ge=1)]
    truncation: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """``drift`` of the ``weights`` setting from the reference of dtype ``reference``, computed by ``method``.

    ``arithmetic`` is what our side computed with; None in format 1, which did not record it. ``device`` names what both
    sides ran on. ``texts`` are the SHA-256 of each text's UTF-8 bytes, in the order measured, None for a row that is
    no text.
    """

    format: Annotated[int, only(1, FORMAT)]
    date: Annotated[str, AfterValidator(_iso_8601)]
    weights: Name
    reference: Annotated[str, only("bf16", "fp32")]
    method: Annotated[str, only(*METHODS)]
    device: Name
    arithmetic: Arithmetic | None
    versions: Versions
    prompt: PromptRecord
    texts: tuple[Sha256 | None, ...]
    drift: Drift


def certificate(
    drift: Drift,
    *,
    texts: Sequence[object],
    prompt: Prompt,
    arithmetic: Arithmetic,
    reference: str,
    method: str,
    device: str,
    date: str,
) -> Certificate:
    """The certificate of a measured drift; ``as_json`` makes of it what an artifact stores.

    texts: the measured ones, all of them and in their order. prompt, arithmetic: those of our side. reference: "bf16"
    or "fp32". method: "layerwise", "resident" or "transformers". device: what both sides ran on. date: ISO 8601, such
    as "2026-01-31".

    Raises CheckpointError if these contradict each other.
    """
    versions = Versions(
        __version__,
        platform.python_version(),
        version("torch"),
        version("numpy"),
        transformers=_version("transformers") if method == "transformers" else None,
        hqq=_version("hqq") if arithmetic.weights in QUANTIZING else None,
    )
    asked = PromptRecord(prompt.template_sha256, tuple(prompt.labels), prompt.max_tokens, prompt.truncation)
    made = {
        "format": FORMAT,
        "date": date,
        "weights": arithmetic.weights,
        "reference": reference,
        "method": method,
        "device": device,
        "arithmetic": arithmetic,
        "versions": versions,
        "prompt": asked,
        "texts": [_sha256(text) if isinstance(text, str) else None for text in texts],
        "drift": drift,
    }
    return parse(to_jsonable_python(made))


def as_json(certificate: Certificate) -> dict[str, Any]:
    """Plain values for ``json.dumps(..., allow_nan=False)``."""
    plain: dict[str, Any] = to_jsonable_python(certificate)
    if plain["arithmetic"] and plain["arithmetic"]["special_tokens"] == "text":
        del plain["arithmetic"]["special_tokens"]  # older versions of slant know no other reading, and read on
    return plain


def parse(value: Any, source: str = "the certificate") -> Certificate:
    """The certificate that ``as_json`` made ``value`` of. ``source`` names it in errors.

    Raises CheckpointError naming what is missing, unknown, of the wrong type, or in contradiction to the rest.
    """
    found = value.get("format") if isinstance(value, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError(f"{source} is of format {shown(found)}, this slant reads {FORMAT}; use a newer slant.")
    if found == 1:
        value = {**value, "arithmetic": None}
    contradicts, again = f"{source} does not hold together", "quantize again"
    made = record(Certificate, value, contradicts, CheckpointError, again)
    for problem in _problems(made):
        raise CheckpointError(f"{contradicts}: {problem}; {again}.")
    return made


def _problems(made: Certificate) -> list[str]:
    drift, overall = made.drift, made.drift.overall
    failed = [failure.row for failure in drift.failures]
    checks = {
        "its arithmetic contradicts the rest": _fits_arithmetic(made),
        f"it has {len(made.texts)} text hashes for {drift.rows} rows": len(made.texts) == drift.rows,
        f"{len(drift.labels)} labels for {len(made.prompt.answers)} answers": len(drift.labels)
        == len(made.prompt.answers),
        "failed rows are not counted once each": len(set(failed)) == len(failed)
        and all(0 <= row < drift.rows for row in failed),
        "rows compared and failed are not all rows": overall.figures.rows + len(failed) == drift.rows,
        "the length buckets do not add up": _adds_up(drift),
    }
    problems = [problem for problem, fine in checks.items() if not fine]
    slices = [("overall", overall), *((f"bucket from {part.low}", part) for part in drift.buckets)]
    return problems + [f"{problem} ({name})" for name, part in slices for problem in _slice_problems(part, drift)]


def _fits_arithmetic(made: Certificate) -> bool:
    if made.arithmetic is None:
        return made.format == 1
    prompt, a = made.prompt, made.arithmetic
    return (a.weights, a.max_tokens, a.truncation) == (made.weights, prompt.max_tokens, prompt.truncation)


def _adds_up(drift: Drift) -> bool:
    figures, overall = [part.figures for part in drift.buckets], drift.overall.figures
    return (sum(f.rows for f in figures), sum(f.flips for f in figures)) == (overall.rows, overall.flips)


def _slice_problems(part: Slice, drift: Drift) -> list[str]:
    figures, k = part.figures, len(drift.labels)
    counts = figures.confusion
    agreed = sum(row[i] for i, row in enumerate(counts)) if all(len(row) == len(counts) for row in counts) else -1
    tails = (figures.delta, figures.kl, figures.expected, figures.gap)
    checks = {
        "the confusion matrix is not of the labels": [len(row) for row in counts] == [k] * k,
        "the confusion matrix does not count the rows": sum(map(sum, counts)) == figures.rows,
        "the flips are not those of the confusion matrix": figures.rows - agreed == figures.flips,
        "the flip rate is not that of the flips": abs(figures.flip_rate - figures.flips / figures.rows) < 1e-9,
        "a figure is negative or beyond its maximum": all(
            0 <= tail.mean <= tail.maximum * (1 + 1e-9) and 0 <= tail.p99 <= tail.maximum for tail in tails
        ),
    }
    return [problem for problem, fine in checks.items() if not fine]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
