"""Kills ``finetune`` at given places, lets it go on, and compares with a run that was not killed.

Run as ``python kill_finetune.py BASE FOLDER PLACE ...``; a place is what happens and how often: "training:9" is the
ninth step, "save:10" the tenth file of a training checkpoint, "merging:1", "validating:1", and "rename:1" the folder's
change of name. Each attempt is a process of its own that kills itself with SIGKILL. Prints each place, and the training
checkpoint that the run went on from, or "none" or "finished".
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
import toy
import transformers
from peft import PeftModel

from slant.training.data import TrainingTable
from slant.training.run import finetune
from slant.training.train import last_complete

# 8 steps in 2 epochs; the last step of each has a short batch
ROWS, RECIPE = 30, toy.recipe(batch_size=4, accumulation=2, save_steps=3)


def attempt(base: Path, table: TrainingTable, target: Path, place: str = "") -> int:
    """Run in a child that dies at ``place``; returns the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    counts: Counter[str] = Counter()

    def count(kind: str) -> None:
        counts[kind] += 1
        if f"{kind}:{counts[kind]}" == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count(kind)
            return function(*arguments, **options)

        return call

    torch.save = counted("save", torch.save)
    PeftModel.save_pretrained = counted("save", PeftModel.save_pretrained)  # type: ignore[method-assign]
    transformers.TrainerState.save_to_json = counted("save", transformers.TrainerState.save_to_json)  # type: ignore[method-assign]
    Path.rename = counted("rename", Path.rename)  # type: ignore[method-assign]
    finetune(base, [table], target, RECIPE, device="cpu", resume=True, progress=lambda stage, done, total: count(stage))
    os._exit(0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main(base: Path, folder: Path, places: list[str]) -> None:
    torch.set_num_threads(1)
    table = toy.write(folder / "a.csv", toy.rows(ROWS))
    assert attempt(base, table, folder / "whole") == 0
    whole = contents(folder / "whole")
    target, partial = folder / "model", folder / "model.partial"
    for place in places:
        for path in (target, partial):
            shutil.rmtree(path, ignore_errors=True)
        assert attempt(base, table, target, place) == signal.SIGKILL, place
        if target.exists():
            found = contents(target)
            assert {name: found[name] for name in whole} == whole
            print(place, "finished")
            continue
        shutil.copytree(partial / "checkpoints", folder / "seen", dirs_exist_ok=True)
        last = last_complete(folder / "seen")
        print(place, Path(last).name if last else "none")
        shutil.rmtree(folder / "seen")
        assert attempt(base, table, target) == 0, place
        assert not partial.exists()
        found = contents(target)
        assert found.keys() == whole.keys()
        assert [name for name in whole if found[name] != whole[name]] == []


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
