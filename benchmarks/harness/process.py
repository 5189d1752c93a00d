"""Systems in processes of their own: started, asked for answers, ended; and in one sentence why one failed.

``worker.py`` is the other end. Several systems stay loaded, so that they can take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from harness.worker import status

WORKER = Path(__file__).with_name("worker.py")
PAUSE = 0.05  # seconds before a request: threads of the system asked before may spin for a while


class WorkerError(RuntimeError):
    """A system could not be loaded, failed on a request or died: one sentence."""


class Loaded(NamedTuple):
    """What loading took: seconds, bytes and the versions of the system's packages."""

    load_s: float
    rss: int | None
    peak_rss: int | None
    versions: dict[str, str | None]


class Reply(NamedTuple):
    """The answers to one request: seconds that the system took, a list of numbers a text, peak bytes."""

    seconds: float
    answers: list[list[float]]
    peak_rss: int | None


class Worker:
    """A running worker. ``loaded`` says what loading took; the constructor waits for it.

    Raises WorkerError if the system cannot be loaded within ``timeout`` seconds.
    """

    def __init__(
        self, python: str, backend: str, options: Mapping[str, Any], *, threads: int, timeout: float = 600
    ) -> None:
        # Every pool of threads that a system may have; its own setting comes on top, in its options.
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        settings = dict.fromkeys(pools, str(threads)) | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [python, str(WORKER), backend, json.dumps(dict(options))]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._messages}
        try:
            self._process = subprocess.Popen(command, **pipes, env=os.environ | settings, text=True)
        except OSError as error:
            self._messages.close()
            raise WorkerError(f"{python} cannot be run: {error.strerror}; name another with --python.") from None
        try:
            self.loaded = Loaded(**self._receive(timeout))
        except WorkerError:
            self.close()
            raise

    def score(self, texts: Sequence[Any], batch: int, timeout: float = 600) -> Reply:
        """Answers for token id lists or texts; raises WorkerError, also if it takes longer than ``timeout`` seconds."""
        try:
            self._process.stdin.write(json.dumps({"texts": list(texts), "batch": batch}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return Reply(**self._receive(timeout))

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _receive(self, timeout: float) -> dict[str, Any]:
        late, start = Timer(timeout, self._process.kill), time.monotonic()  # killing it ends the wait for the line
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        if not line:
            late_s = f"it took longer than {timeout:.0f} s and was ended."
            raise WorkerError(late_s if time.monotonic() - start >= timeout else self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"its process ended with code {code}: {said[-1][:300]}"


@dataclass
class Pool:
    """Workers by the name of their system; systems of the same backend and options share one.

    ``pythons`` are interpreters by backend, this one where there is none; ``timeout`` the seconds an answer may take;
    ``reserve`` the bytes of memory that must be free for a further worker. ``failures`` has a sentence for each system
    without a worker.
    """

    threads: int
    timeout: float
    reserve: float = 0
    pythons: Mapping[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _workers: dict[str, Worker] = field(default_factory=dict)
    _shared: dict[str, Worker | str] = field(default_factory=dict)
    _seconds: dict[str, dict[int, float]] = field(default_factory=dict)

    def start(self, name: str, backend: str, options: Mapping[str, Any]) -> None:
        """Load a system, or note why it failed."""
        key = f"{backend} {sorted(options.items())}"
        if key not in self._shared:
            free, python = available(), self.pythons.get(backend, sys.executable)
            try:
                if free is not None and free < self.reserve:
                    raise WorkerError(
                        f"not started: {free / 1e9:.1f} GB of memory are free and {self.reserve / 1e9:.1f} GB are "
                        "wanted; name fewer systems, and the others in another call with the same --run"
                    )
                self._shared[key] = Worker(python, backend, options, threads=self.threads)
            except WorkerError as error:
                self._shared[key] = str(error)
        worker = self._shared[key]
        if isinstance(worker, str):
            self.failures[name] = worker
        else:
            self._workers[name] = worker

    def loaded(self, name: str) -> Loaded | None:
        worker = self._workers.get(name)
        return worker and worker.loaded

    def ask(self, name: str, texts: Sequence[Any], batch: int, tokens: int = 0) -> Reply:
        """One timed answer to texts of so many tokens; raises WorkerError."""
        if name in self.failures:
            raise WorkerError(self.failures[name])
        time.sleep(PAUSE)
        reply = self._workers[name].score(texts, batch, self.timeout)
        known = self._seconds.setdefault(name, {})
        known[tokens] = min(reply.seconds, known.get(tokens, reply.seconds))
        return reply

    def predicted(self, name: str, tokens: int) -> float | None:
        """Seconds, in proportion to the largest request of fewer tokens (or the smallest of all); None without any."""
        history = self._seconds.get(name)
        if not history:
            return None
        known = max((n for n in history if n <= tokens), default=min(history))
        return history[known] * tokens / known

    def close(self) -> None:
        for worker in self._shared.values():
            if isinstance(worker, Worker):
                worker.close()


def available() -> int | None:
    """Bytes of memory that a new process can have; None where there is no /proc."""
    return status("MemAvailable", "/proc/meminfo")
