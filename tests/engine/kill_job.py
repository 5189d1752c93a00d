"""Kills jobs of ``score_table`` with SIGKILL, lets them go on, and compares with one that was not killed.

Run as ``python kill_job.py FOLDER ROWS WINDOW KILLS ENDING SEED``. Each attempt is a process of its own that is killed
after a random time or at a random step: the opening of a file to write, a sync, a rename, a file that is removed. The
engine's answers depend on what else is in a window, as those of bf16 do. Prints where the kills were and how many
windows were scored twice.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

from fake import Engine as Fake

from slant.scores import Score
from slant.tables.bulk import score_table
from slant.tables.job import JOINED, MANIFEST
from slant.tables.store import ScoreStore

STEPS, SCORED = "steps", "scored"


class Engine(Fake):
    """Notes the windows that it scores."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def stream(self, texts: Iterable[object], **options: Any) -> Iterator[Score]:
        texts = iter(texts)
        while chunk := list(islice(texts, options["window"])):
            asked = [text for text in chunk if isinstance(text, str)]
            neighbours = crc32(repr(asked).encode())
            if asked:
                with self.log.open("a") as file:
                    file.write(f"{neighbours}\n")
            salted = [text if text is None else f"{text} {neighbours % 7}" for text in chunk]
            yield from super().stream(salted, **options)


def attempt(source: Path, target: Path, window: int, *, step: int = 0, after: float = 0.0) -> int:
    """Run a job in a child that dies at a step, or is killed after some seconds; gives the wait status."""
    child = os.fork()
    if child:
        if after:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    opened = Path.open

    def opening(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = opened(self, mode, *arguments, **options)
        if "x" in mode:
            counted(lambda: None)()  # there is an empty file now
        return file

    os.fsync = counted(lambda _: None)  # a killed process loses nothing that it wrote
    Path.open = opening  # type: ignore[method-assign,assignment]
    for name in ("replace", "unlink", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    ScoreStore.put = counted(ScoreStore.put)  # type: ignore[method-assign]
    try:
        score_table(Engine(target.parent / SCORED), source, target, window=window)
        with opened(target.parent / STEPS, "w") as file:
            file.write(str(steps))
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)


def where(target: Path) -> str:
    """What the killed process was doing, as its files show."""
    folder = target.with_name(f"{target.name}.parts")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if MANIFEST not in names and target.exists():
        return "at the end"
    if not names:
        return "before the job"
    if any(name.startswith(f".{MANIFEST}") for name in names):
        return "writing the manifest"
    if JOINED in names or any(name.startswith(f".{JOINED}") for name in names):
        return "joining"
    if target.exists():
        return "removing parts"
    return "scoring" if any(name.endswith(".part") for name in names) else "beginning"


def main(folder: Path, rows: int, window: int, kills: int, ending: str, seed: int) -> None:
    chosen = random.Random(seed)
    source, whole, target = folder / "in.csv", folder / f"whole.{ending}", folder / f"out.{ending}"
    lines = (f"{i},text {chosen.randrange(rows)} of {i % 50}\n" if i % 97 else f"{i}\n" for i in range(rows))
    source.write_text("id,text\n" + "".join(lines))
    log = folder / SCORED
    start = time.monotonic()
    assert attempt(source, whole, window) == 0
    seconds, steps = time.monotonic() - start, int((folder / STEPS).read_text())
    known = Counter(log.read_text().split())
    log.unlink()
    assert set(known.values()) == {1}
    places: Counter[str] = Counter()
    twice = done = 0
    while done < kills:
        killed = 0
        while killed < chosen.choice((1, 1, 2, 4)) and done < kills:
            kind = chosen.random()
            if kind < 0.5:
                status = attempt(source, target, window, after=chosen.uniform(0.01, seconds))
            else:
                step = chosen.randint(1, steps) if kind < 0.8 else steps - chosen.randint(0, steps // 3)
                status = attempt(source, target, window, step=step)
            if status == 0:
                break  # it was done before its time
            assert status == signal.SIGKILL
            places[where(target)] += 1
            killed, done = killed + 1, done + 1
            if where(target) == "at the end":
                break
        if where(target) == "at the end":  # the next run finds nothing to do, and says that the output exists
            assert attempt(source, target, window) != 0
        else:
            assert attempt(source, target, window) == 0
        assert target.read_bytes() == whole.read_bytes()
        found = Counter(log.read_text().split())
        assert found.keys() == known.keys()
        again = sum(found.values()) - len(found)
        assert again <= killed, (again, killed)
        twice += again
        assert {path.name for path in folder.iterdir()} == {source.name, whole.name, target.name, STEPS, SCORED}
        target.unlink()
        log.unlink()
    print(done, twice, dict(places))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5], int(sys.argv[6]))  # type: ignore[misc]
