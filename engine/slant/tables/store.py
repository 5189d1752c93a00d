"""Answers by the text that they are for, in SQLite: of one job, so that a text is scored once, or of many.

The key is a hash of the text that is keyed with everything else that decides its score, so what is found always fits.
An answer says which window of which job it was computed for: a window that is scored again, since the job was killed
before it was written, counts it as its own.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from slant.errors import TableError
from slant.scores import Score

Made = tuple[str, int]  # the job, eight characters, and its window

HEAD = struct.Struct("<8sIb")  # job, window, kind
COUNTS = struct.Struct("<iii")  # tokens, dropped, special tokens
FAILED, MODEL_FAILED = 8, 9  # kinds; the others are 0 and 1 for what ``stable`` says, and 2 for None
AT_ONCE = 500  # keys a query
CACHE = 16 << 10  # KiB of memory


class ScoreStore:
    """``path``: "" for one that lives as long as the object, on disk if it grows. ``identity`` is of the scorer.

    shared: other processes may use it at the same time; else it is locked, without help of the file system.
    Raises TableError if the file is no store, OSError if the disk is full.
    """

    def __init__(self, path: str | Path, identity: bytes, labels: tuple[str, ...], *, shared: bool = False) -> None:
        self._path, self._labels = str(path), labels
        self._key = hashlib.sha256(identity).digest()
        with self._errors():
            self._sql = sqlite3.connect(self._path, timeout=60 if shared else 1, isolation_level=None)
            self._sql.execute(f"PRAGMA cache_size = -{CACHE}")
            if self._path:
                if not shared:
                    self._sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # its index then needs no shared memory
                self._sql.execute("PRAGMA journal_mode = WAL")
                self._sql.execute("PRAGMA synchronous = FULL")  # an answer is never lost after its part was written
            self._sql.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def key(self, text: str) -> bytes:
        """Which answer is that of a text; texts of one key are identical, short of a collision of 128 bits."""
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, tuple[Score, Made]]:
        """The answers that are there, with what they were computed for."""
        wanted, found = list(dict.fromkeys(keys)), dict[bytes, tuple[Score, Made]]()
        with self._errors():
            for begin in range(0, len(wanted), AT_ONCE):
                some = wanted[begin : begin + AT_ONCE]
                marks = ",".join("?" * len(some))
                for key, value in self._sql.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", some):
                    found[key] = self._unpacked(value)
        return found

    def put(self, answers: Mapping[bytes, Score], made: Made) -> None:
        """Keep answers: all of them or, if the process dies, none."""
        if not answers:
            return
        rows = [(key, self._packed(score, made)) for key, score in sorted(answers.items())]
        with self._errors():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                self._sql.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._errors():
            self._sql.close()

    def _packed(self, score: Score, made: Made) -> bytes:
        job, window = made[0].encode(), made[1]
        if score.error is not None:
            kind = MODEL_FAILED if score.model_failed else FAILED
            return HEAD.pack(job, window, kind) + score.error.encode("utf-8", "surrogatepass")
        kind = 2 if score.stable is None else int(score.stable)
        counts = COUNTS.pack(score.tokens, score.tokens_dropped, score.special_tokens)
        figures = np.concatenate([score.logits, score.probabilities]).astype("<f4").tobytes()
        return HEAD.pack(job, window, kind) + counts + figures

    def _unpacked(self, value: bytes) -> tuple[Score, Made]:
        job, window, kind = HEAD.unpack_from(value)
        made, rest = (job.decode(), window), value[HEAD.size :]
        if kind in (FAILED, MODEL_FAILED):
            score = Score.failed(rest.decode("utf-8", "surrogatepass"), len(self._labels))
            return replace(score, model_failed=kind == MODEL_FAILED), made
        tokens, dropped, special = COUNTS.unpack_from(rest)
        logits, probabilities = np.frombuffer(rest, "<f4", offset=COUNTS.size).astype(np.float32).reshape(2, -1)
        counts = {"tokens": tokens, "dropped": dropped, "special_tokens": special}
        score = Score.of(logits, probabilities, self._labels, **counts)
        return replace(score, stable=None if kind == 2 else bool(kind)), made

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "full" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device", self._path) from error
            raise TableError(
                f"the scores in {self._path or 'a temporary file'} cannot be used: {error}; see whether the file can "
                "be read and written and the disk has room, or give another --store."
            ) from error
