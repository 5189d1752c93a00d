"""Files that are complete or absent: written under a hidden name beside the target, synced to the disk, then renamed.
And files that people made, read whatever byte order mark their editor put before the text.

A killed run leaves at most a hidden ``.NAME.RANDOM.part``. Its random name stops no later run, and two writers of one
target never share it: the last to finish wins. Locking a target against a second writer is left out.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slant.cores import cores
from slant.errors import SlantError
from slant.stand_ins import refuse_stand_in

PART = ".part"  # how the names of unfinished files end
# UTF-32 before UTF-16, whose mark begins the same.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
JSON_BYTES = 16 << 20  # a file of settings is smaller; parsed, JSON can take thirty times its size
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
    except BaseException as error:
        with suppress(OSError):  # where the folder cannot be written, the error is that
            hidden.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(hidden)):  # of a write, or of the hidden name
            error.filename = str(path)
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


def first_with(folders: Sequence[Path], name: str) -> Path:
    """The file of that name in the first folder that has it; where it would be in the last if none does."""
    return next((folder / name for folder in folders if (folder / name).exists()), folders[-1] / name)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(paths: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """The SHA-256 of files, several at a time; progress is called with (files done, files in all)."""
    pool = ThreadPoolExecutor(threads) if (threads := min(cores().threads, len(paths))) > 1 else None
    try:
        found = list[str]()
        for digest in (pool.map if pool else map)(sha256, paths):
            found.append(digest)
            progress(len(found), len(paths))
        return found
    finally:
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for gigabytes


def marked_encoding(start: bytes) -> str | None:
    """The encoding of a text that starts with a byte order mark; its decoder drops the mark. None without one."""
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), None)


def read_text(path: str | Path, error: type[SlantError] = SlantError) -> str:
    """The text in a file that a person made: UTF-8, or what its byte order mark says, without the mark.

    Line ends stay as they are. Raises ``error`` for a file that cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.") from problem
    encoding = marked_encoding(content)
    try:
        return content.decode(encoding or "utf-8")
    except UnicodeDecodeError as problem:
        # Counted in bytes, which is right for UTF-16 too, short of characters like U+0A0A.
        line = problem.object.count(b"\n", 0, problem.start) + 1
        name = encoding.removesuffix("-sig").upper() if encoding else "UTF-8"
        raise error(
            f"{path} is not {name}: byte 0x{problem.object[problem.start]:02x} in line {line}; save it as UTF-8."
        ) from problem


def read_json(path: str | Path, error: type[SlantError] = SlantError, unique: bool = True) -> Any:
    """The value in a JSON file that a person made, as ``read_text`` reads it.

    Raises ``error`` for a file that is not JSON or too large, or, if they must be ``unique``, has a key twice.
    """
    with suppress(OSError):
        if (size := Path(path).stat().st_size) > JSON_BYTES:
            raise error(f"{path} has {size} bytes, and at most {JSON_BYTES} are read; give the right file.")
    try:
        return json.loads(read_text(path, error), object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} cannot be read as JSON: {problem}.") from problem


def read_object(path: Path, error: type[SlantError] = SlantError) -> dict[str, Any]:
    """The JSON object in a file of a model, of whose repeated keys the last counts, as transformers reads them.

    Raises ``error`` naming the file if it holds another value, and CheckpointError if something stands in for it.
    """
    refuse_stand_in(path)
    content = read_json(path, error, unique=False)
    if not isinstance(content, dict):
        raise error(f"{path} is damaged (it holds no JSON object); save or download it again.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found
