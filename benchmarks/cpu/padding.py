"""Padding efficiency: real over computed tokens of the batches that the engine makes of a call.

Posts have drawn lengths, a median of 55 tokens and the prompt around them. Speeches are the 254 of ``texts.py`` with
their true lengths in Qwen3.5's tokens; without the tokenizer, or without them, lengths drawn from their deciles.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpu import workload
from harness.rows import Row
from harness.workloads import PREFIX, mixture
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner
from texts import TextsError, speeches

COUNTS = {"posts": 1024, "speeches": 254}
AIMS = {"posts": 0.90, "speeches": 0.93}
LIMIT = 8192  # tokens, prefix included
QWEN = 200_000  # a smaller vocabulary is not Qwen3.5's


@dataclass(frozen=True)
class Lengths:
    """Texts of a ``workload`` by their tokens after the prefix; ``real`` says whether there are such texts."""

    workload: str
    tokens: list[int]
    real: bool


def workloads(prompt: Prompt) -> list[Lengths]:
    """1024 posts, and the speeches."""
    known = spoken(prompt)
    drawn = {name: [tokens - PREFIX for tokens in mixture(name, count, LIMIT)] for name, count in COUNTS.items()}
    speeches = Lengths("speeches", known or drawn["speeches"], real=bool(known))
    return [Lengths("posts", drawn["posts"], real=False), speeches]


def spoken(prompt: Prompt) -> list[int]:
    """The speeches' lengths; empty without Qwen3.5's tokenizer or without the speeches."""
    if prompt.tokenizer.get_vocab_size() < QWEN:
        return []
    try:
        rows = prompt.encode([speech.text for speech in speeches()])
    except TextsError:
        return []
    return [len(row.ids) - len(prompt.prefix_ids) for row in rows]


def row(found: Lengths, runner: Runner) -> Row:
    """The fields of a result row, with the share of real tokens as ``fill``."""
    computed = sum(batch.ids.numel() for batch in runner.batches(workload.texts(runner, found.tokens)))
    fill = round(sum(found.tokens) / computed, 4)
    about = {"workload": found.workload, "texts": len(found.tokens), "real": found.real}
    return about | {"fill": fill, "aim": AIMS[found.workload]}
