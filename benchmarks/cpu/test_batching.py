"""The host's work around a batch: planning batches and filling them with tokens, and how little of it is padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cpu import padding, workload
from cpu.padding import Lengths
from mixtures import PREFIX
from slant.batching.buckets import plan
from slant.batching.costs import default_costs
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner


@pytest.fixture(scope="module")
def lengths(prompt: Prompt) -> dict[str, Lengths]:
    return {found.workload: found for found in padding.workloads(prompt)}


@pytest.mark.parametrize("by", ["tokens", "costs"])
def test_plan(by: str, lengths: dict[str, Lengths], runner: Runner, measure: Callable[..., Any]) -> None:
    tokens = lengths["posts"].tokens
    costs = default_costs(runner.model.config, "cpu", runner.model.dtype.itemsize) if by == "costs" else None
    batches = measure(
        lambda: plan(tokens, runner.token_budget, padding.LIMIT - PREFIX, costs),
        workload=f"plan by {by}, posts",
        texts=len(tokens),
    )
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(tokens)))


@pytest.mark.parametrize("name", padding.COUNTS)
def test_batches(name: str, lengths: dict[str, Lengths], runner: Runner, measure: Callable[..., Any]) -> None:
    """Plan and make the static batches, with the padding efficiency beside."""
    sequences = workload.texts(runner, lengths[name].tokens)
    facts = padding.row(lengths[name], runner) | {"workload": f"batches, {name}"}
    batches = measure(lambda: list(runner.batches(sequences)), **facts)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(sequences)))
