"""Kills ``quantize_checkpoint`` at one of its steps, lets it finish, and compares with a run that was not killed.

Run as ``python kill_quantize.py SOURCE FOLDER STRIDE``: every STRIDE-th step, and the last ones. A step is a piece of a
file, a sync, a rename or a tensor; each attempt is a process of its own that kills itself with SIGKILL. Prints the
number of steps and where the stops were.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import slant.artifact.shards
import slant.artifact.writer
import slant.model.hqq
import slant.quantize.job
from slant.artifact.recipe import Grid, Recipe
from slant.model.source import open_artifact

STEPS = "steps.txt"
RECIPE = Recipe({"mlp.up_proj.weight": Grid(4), "self_attn.o_proj.weight": Grid(8), "mlp.down_proj.weight": Grid(3)})


def attempt(source: Path, target: Path, fatal: int | None, force: bool = False) -> int:
    """Run in a child that dies at step ``fatal``; returns the wait status."""
    child = os.fork()
    if child == 0:
        step = 0

        def count() -> None:
            nonlocal step
            step += 1
            if step == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                count()
                return function(*arguments, **options)

            return call

        pieces = slant.artifact.writer.safetensors
        slant.artifact.shards.PIECE = 16384
        slant.artifact.writer.safetensors = lambda tensors: (count() or piece for piece in pieces(tensors))
        os.fsync = counted(os.fsync)
        opened = Path.open

        def opening(self: Path, *arguments: Any, **options: Any) -> Any:
            file = opened(self, *arguments, **options)
            if "xb" in arguments:
                count()  # there is an empty file now
            return file

        Path.open = opening  # type: ignore[method-assign]
        Path.rename, Path.replace, Path.unlink = counted(Path.rename), counted(Path.replace), counted(Path.unlink)
        slant.quantize.job.quantize_checkpoint(
            source, target, RECIPE, force=force, progress=lambda done, total: count()
        )
        (target.parent / STEPS).write_text(str(step))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main(source: Path, folder: Path, stride: int) -> None:
    torch.set_num_threads(1)
    slant.model.hqq.solver()  # imported once, not in each child
    assert attempt(source, folder / "whole", None) == 0
    whole = contents(folder / "whole")
    target, partial = folder / "model", folder / "model.partial"
    for replacing in (False, True):
        stops: Counter[str] = Counter()

        def begin(replacing: bool = replacing) -> None:
            for path in [*folder.glob("model*"), *folder.glob(".model*")]:
                shutil.rmtree(path)
            if replacing:
                shutil.copytree(folder / "whole", target)
                (target / "README.md").write_text("the one that is replaced")

        begin()
        assert attempt(source, target, None, replacing) == 0
        steps = int((folder / STEPS).read_text())
        for fatal in sorted({*range(1, steps, stride), *range(steps - 6, steps + 1)}):
            begin()
            assert attempt(source, target, fatal, replacing) == signal.SIGKILL
            old = (target / "README.md").exists()
            finished = target.exists() and not old
            stops["finished" if finished else "shards" if list(partial.glob("*.safetensors")) else "begun"] += 1
            if target.exists():
                open_artifact(target)
            if not finished:
                for early in (1, 2):  # while the journal is read and written again
                    attempt(source, target, early, replacing)
                assert attempt(source, target, None, replacing) == 0
            assert not partial.exists()
            found = contents(target)
            assert {name: found.pop(name) for name in whole} == whole
            assert not found or (finished and found.keys() == {".journal"})
        print(steps, dict(stops))


main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
