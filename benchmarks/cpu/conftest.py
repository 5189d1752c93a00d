"""The CPU suite's options, the loaded model, and ``measure``, which times a function and appends its row.

``pytest benchmarks/cpu --benchmark-enable`` measures; without the flag every function runs once and no row is written.
How long is measured is pytest-benchmark's to say: ``--benchmark-max-time``, ``--benchmark-min-rounds``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from cpu import limits, workload
from cpu.limits import Limits
from harness.rows import RESULTS, Row, append, environment, percentiles
from slant.errors import SlantError
from slant.prompt.prompt import Prompt
from slant.runtime.runner import Runner

# What a row counts: the name of its rate, and of how many that is.
RATES = {
    "flops": ("gflop_per_s", 1e9),
    "bytes": ("gb_per_s", 1e9),
    "tokens": ("tokens_per_second", 1),
    "texts": ("texts_per_second", 1),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the CPU suite")
    group.addoption("--model", type=Path, metavar="FOLDER", help="a checkpoint; by default random weights of 0.8B")
    group.addoption("--rows", type=Path, default=RESULTS / "cpu.jsonl", help="the .jsonl file that rows are added to")
    group.addoption("--no-rows", action="store_true", help="measure and write nothing")
    group.addoption("--threads", type=int, help="CPU threads; torch's own choice by default")


@pytest.fixture(scope="session", autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    if threads := request.config.getoption("--threads"):
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """The checkpoint's folder."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None
    try:
        return workload.checkpoint(request.config.getoption("--model"), terminal.write_line)
    except SlantError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def runner(folder: Path) -> Runner:
    return workload.load(folder)


@pytest.fixture(scope="session")
def prompt(folder: Path) -> Prompt:
    return Prompt.load(folder)


@pytest.fixture(scope="session")
def add_row(request: pytest.FixtureRequest, _threads: None, folder: Path) -> Callable[[Row], None]:
    """Appends a row with what it was made with. All rows of a session have the time at which it began."""
    path, about = request.config.getoption("--rows"), environment() | {"model": folder.name}
    silent = request.config.getoption("--no-rows")

    def add(row: Row) -> None:
        if not silent:
            append(path.stem, about | row, path.parent)

    return add


@pytest.fixture(scope="session")
def limit(request: pytest.FixtureRequest, runner: Runner, add_row: Callable[[Row], None]) -> Limits | None:
    """The processor's limits, measured once and written as a row; None where nothing is measured."""
    if not request.config.getoption("--benchmark-enable"):
        return None
    found = limits.measure(runner, float(request.config.getoption("--benchmark-max-time")))
    add_row({"group": "limit", "workload": "limit", "dtype": workload.dtype(runner)} | vars(found))
    return found


@pytest.fixture
def measure(benchmark: BenchmarkFixture, limit: Limits | None, add_row: Callable[[Row], None]) -> Callable[..., Any]:
    """``measure(run, group=..., workload=..., ...)`` times ``run()`` and gives its last result.

    Where benchmarks are enabled it appends a row of seconds, rounds and what else is given; of ``flops``, ``bytes``,
    ``tokens`` and ``texts`` the rates are added, and the least seconds that FLOPs and bytes take by the limits.
    """

    def timed(run: Callable[[], Any], **facts: Any) -> Any:
        result = benchmark(run)
        if benchmark.disabled or limit is None:
            return result
        taken, median = benchmark.stats.stats.data, benchmark.stats.stats.median
        row = facts | {"seconds": percentiles(taken), "rounds": len(taken)} | rates(facts, median)
        if least := limit.seconds(facts.get("flops", 0), facts.get("bytes", 0)):
            row |= {"limit_s": float(f"{least:.4g}"), "of_limit": round(least / median, 4)}
        benchmark.extra_info.update(row)
        add_row(row)
        return result

    return timed


def rates(facts: Row, seconds: float) -> Row:
    """GFLOP, GB, tokens and texts a second, of what a row counts."""
    return {rate: float(f"{facts[key] / seconds / unit:.5g}") for key, (rate, unit) in RATES.items() if key in facts}
