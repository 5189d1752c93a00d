"""A lock that one process holds on a folder and that dies with it, however it ends.

It is the kernel's ``flock`` on a file in the folder, so a killed process leaves no lock behind, and containers that
share the folder on one machine see each other. Over NFS it holds between machines if the server runs a lock daemon and
the mount does not say ``nolock`` or ``local_lock``; where a file system has no locks at all, that is logged and the job
goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path
from typing import IO

from slant.errors import TableError

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}

log = logging.getLogger(__name__)


def hold(path: Path, what: object) -> IO[bytes]:
    """Lock the file ``path``, which is made with its folder; closing what is returned gives the lock back.

    Raises TableError, at once, if another process holds it for ``what``.
    """
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            file = path.open("a+b")
        except FileNotFoundError:
            if path.parent.parent.is_dir():
                continue  # another process has just finished, and removed the folder
            raise
        try:
            _lock(file)
            if _is_still(path, file):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).decode(errors="replace") or "unknown"
            file.close()
            raise TableError(
                f"{what} is being written by another job ({holder}); wait for it, or name another output."
            ) from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                log.warning("%s has no locks; make sure that no other job writes %s.", path.parent, what)
                return file
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes]) -> None:
    """Raises BlockingIOError if another process has it."""
    if os.name == "nt":
        import msvcrt

        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from error
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether the locked file has its name still: who finishes a job removes it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
