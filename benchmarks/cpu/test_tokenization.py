"""Texts a second from strings to token ids, the prompt around each included."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from slant.demo import passages
from slant.prompt.prompt import Prompt

LONG = 10_000  # characters


@pytest.mark.parametrize("kind", ["passages", "long"])
def test_encode(kind: str, prompt: Prompt, measure: Callable[..., Any]) -> None:
    texts = [passage["text"] for passage in passages()]
    if kind == "long":
        texts = [long(texts, start) for start in range(20)]
    rows = measure(
        lambda: prompt.encode(texts),
        workload={"passages": "demo passages", "long": "texts of 10 kB"}[kind],
        texts=len(texts),
        tokens=sum(len(row.ids) for row in prompt.encode(texts)),
        vocabulary=prompt.tokenizer.get_vocab_size(),
    )
    assert all(row.error is None for row in rows)


def long(texts: list[str], start: int) -> str:
    """Passages one after the other from the ``start``-th on, up to LONG characters."""
    joined, turn = "", cycle(texts[start:] + texts[:start])
    while len(joined) < LONG:
        joined += next(turn) + "\n\n"
    return joined[:LONG]
