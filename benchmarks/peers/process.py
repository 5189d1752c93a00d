"""The parent's end of ``worker.py``: starts a worker, asks it, and tells in one sentence why it failed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class WorkerError(RuntimeError):
    """A peer could not be loaded, failed on a request or died: one sentence."""


@dataclass(frozen=True)
class Loaded:
    """What loading took: seconds, bytes and the versions of the peer's packages."""

    load_s: float
    rss: int | None
    peak_rss: int | None
    versions: dict[str, str | None]


@dataclass(frozen=True)
class Reply:
    """The answers to one request: seconds that the peer took, a list of numbers a text, peak bytes."""

    seconds: float
    answers: list[list[float]]
    peak_rss: int | None


class Worker:
    """A running worker. ``loaded`` says what loading took; the constructor waits for it.

    Raises WorkerError if the peer cannot be loaded within ``timeout`` seconds.
    """

    def __init__(
        self, python: str, backend: str, options: Mapping[str, Any], *, threads: int, timeout: float = 600
    ) -> None:
        # Every pool of threads that a peer may have; a peer's own setting comes on top, in its options.
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        settings = dict.fromkeys(pools, str(threads)) | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER), backend, json.dumps(dict(options))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env=os.environ | settings,
                text=True,
            )
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
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"texts": list(texts), "batch": batch}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._end(None)) from None
        return Reply(**self._receive(timeout))

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _receive(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        expired: list[bool] = []

        def end() -> None:
            expired.append(True)
            self._process.kill()  # which ends the wait for the line

        late = Timer(timeout, end)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        if not line:
            raise WorkerError(self._end(timeout if expired else None))
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _end(self, timeout: float | None) -> str:
        if timeout is not None:
            return f"it took longer than {timeout:.0f} s and was ended."
        code = self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"its process ended with code {code}: {said[-1][:300]}"
