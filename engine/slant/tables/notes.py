"""What is found out about an input while it is opened, logged once: a job opens a file again to read on in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_known = ContextVar("known", default=False)


def note(log: logging.Logger, message: str, *values: object) -> None:
    """Log a warning, unless the input was opened before."""
    if not _known.get():
        log.warning(message, *values)


@contextmanager
def opened_before() -> Iterator[None]:
    """Within this block nothing is noted."""
    token = _known.set(True)
    try:
        yield
    finally:
        _known.reset(token)
