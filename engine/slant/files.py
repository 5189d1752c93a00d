"""Files that are complete or absent: written under a hidden name beside the target, synced to the disk, then renamed.

A killed run leaves at most a hidden ``.NAME.RANDOM.part``. Its random name stops no later run, and two writers of one
target never share it: the last to finish wins. Locking a target against a second writer is left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PART = ".part"  # how the names of unfinished files end
NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP}  # not offered here, or not to us


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """An open binary file that takes the name ``path`` when the block ends, and is deleted if it raises.

    Permissions follow the umask. A link stays, and the file that it names is replaced. A device or a pipe is written to
    directly. Raises OSError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    final = path.resolve()
    hidden = final.with_name(f".{final.name[:50]}.{secrets.token_hex(8)}{PART}")
    try:
        with hidden.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(final)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    sync_folder(final.parent)


def write_whole(path: str | Path, pieces: bytes | Iterable[memoryview]) -> tuple[int, str]:
    """Write a file as ``replacing`` does. Returns its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with replacing(path) as file:
        for piece in [memoryview(pieces)] if isinstance(pieces, bytes) else pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left in a working folder, to which nobody else writes."""
    for left in folder.rglob(f".*{PART}"):
        left.unlink()


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the file system can do it."""
    if os.name == "nt":  # Windows opens no folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
