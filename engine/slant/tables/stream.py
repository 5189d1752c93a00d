"""The bytes and the text of an input: unpacked, and decoded as its byte order mark or the caller says."""

from __future__ import annotations

import codecs
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from slant.errors import TableError
from slant.files import marked_encoding
from slant.tables.notes import note
from slant.tables.signatures import COMPRESSED, SIZE

STANDARD = "-"  # the path that means stdin or stdout
LINE_LIMIT = 64 << 20  # characters; a longer line is not a text, and reading it would not be constant memory
SUGGESTED = "cp1252"  # what western Windows programs write where they do not write UTF-8

log = logging.getLogger(__name__)


class Source:
    """An open input; ``start`` is its beginning and ``stream`` its content, both unpacked. ``total``: see InputTable.

    Raises TableError if ``source`` cannot be opened; ``-`` is stdin.
    """

    def __init__(self, source: str | Path) -> None:
        self.name = "stdin" if str(source) == STANDARD else str(source)
        self._file = _open(source)
        self.total = os.fstat(self._file.fileno()).st_size if self._file.seekable() else None
        self.stream: IO[bytes] = self._file
        self.start = self._peek()
        self.codec = next((codec for codec, magic in COMPRESSED.items() if magic.match(self.start)), None)
        if self.codec is not None:
            self.stream = io.BufferedReader(pa.CompressedInputStream(self._file, self.codec), 1 << 16)
            self.start = self._peek()

    def _peek(self) -> bytes:
        try:
            return self.stream.peek(SIZE)[:SIZE]  # type: ignore[attr-defined]
        except OSError as error:
            self.close()
            reason = error.strerror or f"{error}; get the file again"
            raise TableError(f"{self.name} cannot be read: {reason}.") from error

    def position(self) -> int:
        """Bytes read so far, 0 for a pipe."""
        return 0 if self.total is None or self._file.closed else self._file.tell()

    def close(self) -> None:
        self.stream.close()
        self._file.close()


def _open(source: str | Path) -> IO[bytes]:
    if str(source) == STANDARD:
        return os.fdopen(0, "rb", closefd=False)  # Python's own stdin stays open
    path = Path(source)
    if path.is_dir():
        raise TableError(f"{source} is a folder; slant reads one file at a time: name a file in it.")
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        if "://" in str(source):
            reason += "; it is an address: download it first"
        elif any(sign in path.name for sign in "*?["):
            reason += "; slant reads one file at a time, and no patterns"
        raise TableError(f"{source} cannot be read: {reason}.") from error


class Text(Iterator[str]):
    """The lines of an input with their ends, or blocks of it. newline: as ``open`` has it.

    Reading raises TableError for bytes of another encoding or a damaged file, and for a line beyond ``LINE_LIMIT``.
    """

    def __init__(self, source: Source, encoding: str, newline: str) -> None:
        self._source, self._encoding = source, _encoding(source, encoding)
        self._text = io.TextIOWrapper(source.stream, encoding=self._encoding, newline=newline)
        self._number = 0

    def begins_with(self, character: str) -> bool:
        """Whether it is the first one that is no space, as far as the input was looked at."""
        return self._source.start.decode(self._encoding, "ignore").lstrip().startswith(character)

    def __next__(self) -> str:
        try:
            line = self._text.readline(LINE_LIMIT)
        except (UnicodeError, OSError) as error:
            raise self._unreadable(error) from error
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) == LINE_LIMIT:
            name, number = self._source.name, self._number
            raise TableError(f"{name}: line {number} is longer than {LINE_LIMIT} characters; is it a table?")
        return line

    def block(self, size: int) -> str:
        """At most ``size`` characters, none at the end."""
        try:
            block = self._text.read(size)
        except (UnicodeError, OSError) as error:
            raise self._unreadable(error) from error
        self._number += block.count("\n")
        return block

    def rest(self) -> str:
        """All that is left; raises TableError if that is more than ``LINE_LIMIT``."""
        rest = self.block(LINE_LIMIT)
        if self.block(1):
            raise TableError(f"{self._source.name}: a value is longer than {LINE_LIMIT} characters; is it a table?")
        return rest

    def _unreadable(self, error: Exception) -> TableError:
        if isinstance(error, OSError):
            reason, name = error.strerror or str(error), self._source.name
            return TableError(f"{name} is damaged after line {self._number}: {reason}; get the file again.")
        number, where, advice = self._number + 1, f": {error}", ""
        if isinstance(error, UnicodeDecodeError):
            # The lines before the bad byte in this block of bytes were not given out yet.
            number += error.object[: error.start].count(b"\n")
            bad = error.object[error.start : error.start + 1]
            where = f" (byte 0x{bad.hex()}"
            if self._source.total is not None and self._source.codec is None:
                where += f" at offset {self._source.stream.tell() - len(error.object) + error.start}"
            letter = bad.decode(SUGGESTED, "ignore")
            where += f", {letter!r} in {SUGGESTED})" if letter.isalpha() else ")"
            advice = f": {SUGGESTED if letter else 'latin-1'}, utf-16"
        return TableError(
            f"{self._source.name}: line {number} is not {self._encoding.removesuffix('-sig')}{where}; convert it to "
            f"UTF-8, or name its encoding with --encoding{advice}."
        )


def _encoding(source: Source, given: str) -> str:
    """The codec to decode with, which drops a byte order mark; raises TableError for one that Python does not know."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=given)  # refuses codecs that are not of texts, too
        codec = codecs.lookup(given).name
    except (LookupError, ValueError):
        raise TableError(f"{given!r} is no encoding Python knows.") from None
    marked = marked_encoding(source.start)
    if marked is None:
        if codec == "utf-8" and (guess := _unmarked_utf_16(source.start)):
            raise TableError(f"{source.name} looks like UTF-16 without a byte order mark; give --encoding {guess}.")
        # Forgives the mark, should a pipe bring it late.
        return "utf-8-sig" if codec == "utf-8" else codec
    if not codec.startswith(marked.removesuffix("-sig")):
        note(log, "%s is %s, as its byte order mark says.", source.name, marked.removesuffix("-sig").upper())
    return marked


def _unmarked_utf_16(start: bytes) -> str | None:
    """The codec of Latin letters in UTF-16, which are valid UTF-8 with a NUL in every second place and in no other."""
    even, odd = start[::2], start[1::2]
    if len(start) > 5 and b"\0" not in even and not odd.strip(b"\0"):
        return "utf-16-le"
    return "utf-16-be" if len(start) > 5 and b"\0" not in odd and not even.strip(b"\0") else None
