"""The whole model, tokenization, the host's work around a batch, and what a new process takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from cpu import padding, workload
from cpu.padding import Lengths
from harness.rows import BENCHMARKS
from harness.workloads import PREFIX
from slant.batching.costs import TOKENS, default_costs
from slant.demo import passages
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner

SHAPES = (*((1, 16 << step) for step in range(8)), (8, 128), (8, 1024))
LONG = 10_000  # characters
COMMANDS = {
    "import slant": ["-c", "import slant"],
    "slant demo": ["-c", "from slant.cli.start import main; main()", "demo"],
    "Engine.load": ["-c", "import sys, slant; slant.Engine.load(sys.argv[1], device='cpu')"],
}


@pytest.mark.parametrize(("rows", "length"), SHAPES, ids=lambda size: str(size))
def test_forward(rows: int, length: int, runner: Runner, measure: Callable[..., Any]) -> None:
    """Single texts of growing length, and several at once."""
    texts = workload.texts(runner, [length] * rows)
    batches = len(list(runner.batches(texts)))
    computed = measure(
        lambda: workload.run(runner, texts),
        group="model",
        workload=f"{rows}x{length}",
        shape=[rows, length],
        dtype=workload.dtype(runner),
        texts=rows,
        tokens=rows * length,
        flops=workload.flops(runner.model.config, [length] * rows),
        bytes=batches * workload.weight_bytes(runner),
    )
    assert rows * length <= computed < 1.15 * rows * length


@pytest.mark.parametrize("kind", ["passages", "long"])
def test_encode(kind: str, prompt: Prompt, measure: Callable[..., Any]) -> None:
    """From strings to token ids, the prompt around each included."""
    texts = [passage["text"] for passage in passages()]
    if kind == "long":
        texts = [long(texts, start) for start in range(20)]
    rows = measure(
        lambda: prompt.encode(texts),
        group="tokenization",
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


@pytest.fixture(scope="module")
def lengths(prompt: Prompt) -> dict[str, Lengths]:
    return {found.workload: found for found in padding.workloads(prompt)}


@pytest.mark.parametrize("by", ["tokens", "costs"])
def test_plan(by: str, lengths: dict[str, Lengths], runner: Runner, measure: Callable[..., Any]) -> None:
    tokens = lengths["posts"].tokens
    costs = default_costs(runner.model.config, "cpu", runner.model.dtype.itemsize) if by == "costs" else TOKENS
    planner = replace(runner.planner, costs=costs)
    batches = measure(
        lambda: planner.plan(tokens, padding.LIMIT - PREFIX),
        group="batching",
        workload=f"plan by {by}, posts",
        texts=len(tokens),
    )
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(tokens)))


@pytest.mark.parametrize("name", padding.COUNTS)
def test_batches(name: str, lengths: dict[str, Lengths], runner: Runner, measure: Callable[..., Any]) -> None:
    """Plan and make the static batches, with the padding efficiency beside."""
    sequences = workload.texts(runner, lengths[name].tokens)
    facts = padding.row(lengths[name], runner) | {"workload": f"batches, {name}"}
    batches = measure(lambda: list(runner.batches(sequences)), group="batching", **facts)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(sequences)))


@pytest.mark.parametrize("name", COMMANDS)
def test_new_process(name: str, folder: Path, measure: Callable[..., Any]) -> None:
    """To import, to score the bundled passages, and to load the model. Files may be cached."""
    command = [sys.executable, *COMMANDS[name], *([str(folder)] if name == "Engine.load" else [])]
    root = BENCHMARKS.parent
    paths = [str(root / "engine"), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    options: dict[str, Any] = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(paths)}}
    options |= {"capture_output": True, "check": True}
    measure(lambda: subprocess.run(command, **options), group="cold_start", workload=name)
