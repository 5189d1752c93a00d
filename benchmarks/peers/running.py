"""The workers of a comparison: started, asked, remembered for predictions, ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.measure import predict
from peers.process import Loaded, Reply, Worker, WorkerError
from peers.systems import System
from peers.workloads import Workload

PAUSE = 0.05  # seconds before a request: threads of the peer asked before may spin for a while


@dataclass
class Running:
    """Systems by name and their workers; systems that differ in batch size only share one.

    ``pythons`` are interpreters by backend, this one where there is none; ``timeout`` the seconds an answer may take.
    ``reserve``: bytes of memory that must be free for a further worker to be started. ``failures`` has a sentence for
    each system without a worker.
    """

    pythons: Mapping[str, str]
    threads: int
    timeout: float
    reserve: float = 0
    failures: dict[str, str] = field(default_factory=dict)
    _workers: dict[str, Worker] = field(default_factory=dict)
    _shared: dict[str, Worker | str] = field(default_factory=dict)
    _seconds: dict[str, dict[int, float]] = field(default_factory=dict)

    def start(self, system: System, options: Mapping[str, Any]) -> None:
        """Load a system, or note why it failed."""
        key = f"{system.backend} {sorted(options.items())}"
        if key not in self._shared and (free := available()) is not None and free < self.reserve:
            self._shared[key] = (
                f"not started: {free / 1e9:.1f} GB of memory are free and {self.reserve / 1e9:.1f} GB are wanted; "
                "name fewer systems, and the others in another call with the same --run"
            )
        if key not in self._shared:
            python = self.pythons.get(system.backend, sys.executable)
            try:
                self._shared[key] = Worker(python, system.module, options, threads=self.threads)
            except WorkerError as error:
                self._shared[key] = str(error)
        worker = self._shared[key]
        if isinstance(worker, str):
            self.failures[system.name] = worker
        else:
            self._workers[system.name] = worker

    def warm(self, system: System, workload: Workload) -> None:
        """Ask a system twice, so that it has run and its predictions have a beginning; note it if that fails."""
        try:
            self.ask(system, workload)
            self.ask(system, workload)
        except WorkerError as error:
            self.failures[system.name] = str(error)

    def loaded(self, system: System) -> Loaded | None:
        worker = self._workers.get(system.name)
        return worker.loaded if worker else None

    def ask(self, system: System, workload: Workload) -> Reply:
        """One timed answer to a workload; raises WorkerError."""
        if system.name in self.failures:
            raise WorkerError(self.failures[system.name])
        texts: Sequence[Any] = workload.sequences if not system.reads_text else workload.texts or []
        time.sleep(PAUSE)
        reply = self._workers[system.name].score(texts, system.batch, self.timeout)
        known = self._seconds.setdefault(system.name, {})
        known[workload.tokens] = min(reply.seconds, known.get(workload.tokens, reply.seconds))
        return reply

    def predicted(self, system: System, workload: Workload) -> float | None:
        """Seconds that a workload will take; None for a system that was never asked."""
        return predict(self._seconds.get(system.name, {}), workload.tokens)

    def close(self) -> None:
        for worker in self._shared.values():
            if isinstance(worker, Worker):
                worker.close()


def available() -> int | None:
    """Bytes of memory that a new process can have; None where there is no /proc."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
