"""How long systems take for the same texts: in turn, each in a process of its own, which its memory is that of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import percentiles
from peers.measure import Timing, measure
from peers.process import Loaded, Reply, Worker, WorkerError

BACKEND = "baselines.backend"
LOADING = 600  # seconds


@dataclass(frozen=True)
class Load:
    """What ``backend.load`` needs to know of all systems, and the interpreter that runs it."""

    python: str
    threads: int
    names: Sequence[str]
    models: Mapping[str, Path]
    bases: Mapping[str, Path]
    weights: Sequence[str]

    def start(self, system: str, folder: Path) -> Worker:
        """A worker that has loaded a fitted system; raises WorkerError."""
        paths = {kind: {name: str(path) for name, path in getattr(self, kind).items()} for kind in ("models", "bases")}
        settings = {"system": system, "folder": str(folder), "names": list(self.names), "threads": self.threads}
        settings |= {"weights": list(self.weights), **paths}
        return Worker(self.python, BACKEND, settings, threads=self.threads, timeout=LOADING)


def rows(
    load: Load,
    folders: Mapping[str, Path],
    texts: Sequence[str],
    *,
    rounds: int,
    max_seconds: float,
    progress: Callable[[str], None] = lambda doing: None,
) -> list[dict[str, Any]]:
    """One row a system of ``folders``, the fitted systems by name; its status says why one has no figures."""
    with ExitStack() as stack:
        workers, failed = dict[str, Worker](), dict[str, str]()
        for name, folder in folders.items():
            progress(f"loading {name}")
            try:
                workers[name] = stack.enter_context(closing(load.start(name, folder)))
            except WorkerError as error:
                failed[name] = f"failed: {error}"

        def ask(name: str) -> Reply:
            return workers[name].score(texts, 0, timeout=max(LOADING, 3 * max_seconds))

        timings = measure(ask, list(workers), {}, rounds=rounds, max_seconds=max_seconds, progress=progress)
        found = [row(name, timing, workers[name].loaded, len(texts)) for name, timing in timings.items()]
    return found + [{"system": name, "status": reason} for name, reason in failed.items()]


def row(name: str, timing: Timing, loaded: Loaded, texts: int) -> dict[str, Any]:
    """The medians of a system's rounds; ``peak_rss`` is that of answering, in bytes."""
    seconds = percentiles(list(timing.measured.values())) if timing.runs else None
    return {
        "system": name,
        "status": timing.status,
        "texts": texts,
        "rounds": len(timing.measured),
        "seconds": seconds,
        "texts_per_second": round(texts / seconds["p50"], 3) if seconds else None,
        "peak_rss": timing.peak_rss,
        "rss_loaded": loaded.rss,
        "load_s": round(loaded.load_s, 3),
        "versions": loaded.versions,
    }
