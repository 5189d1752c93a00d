"""Shared fixtures: two threads, tiny checkpoints saved once a session."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import tiny


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
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
