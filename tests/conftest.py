"""Shared fixtures: one thread or two, tiny checkpoints saved once a session, the Triton path."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

import interpreter
import tiny
from slant_kernels import cpu, launch, native


def pytest_report_header() -> str:
    """What computes: a test that passes on one instruction set may not on another."""
    compiled = ", ".join(native.levels()) if native.level() else "none, or SLANT_NATIVE is 0"
    return f"instruction set: {cpu.instruction_set()}; libraries that ops are tested on, beside torch: {compiled}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The same where -q, which is in addopts, leaves out the header."""
    if terminalreporter.verbosity < 0:
        terminalreporter.write_line(pytest_report_header())


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Whatever the module before left: for tiny models a second thread only waits, and on a busy machine for long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def two_threads(_one_thread: None) -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the random fp32 checkpoint of a shape named in ``tiny.SHAPES``."""
    made: dict[str, Path] = {}

    def folder(shape: str) -> Path:
        if shape not in made:
            made[shape] = tiny.save(shape, tmp_path_factory.mktemp(shape.replace(" ", "-")))
        return made[shape]

    return folder


@pytest.fixture
def triton_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Ops run their Triton kernels: on the GPU if there is one, else in Triton's interpreter on CPU tensors."""
    if torch.cuda.is_available():
        with torch.device("cuda") as device:
            yield device
        return
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)
    interpreter.correct(monkeypatch)
    yield torch.device("cpu")
