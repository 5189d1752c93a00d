"""What is stored under a file's name in place of its content: a Git LFS pointer, a web page, another format.

Asked when a file cannot be read, or before a parser would give a reason that leads nowhere. Reads the first bytes only.
"""

from __future__ import annotations

import re
from pathlib import Path

from slant.errors import CheckpointError

_HEAD = 512  # bytes; an LFS pointer has some 130
_LFS = re.compile(rb"version https?://(git-lfs\.github\.com|hawser\.github\.com)/spec/")
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml|error)\b", re.IGNORECASE)
_FORMATS = {
    b"GGUF": "a GGUF file, which slant does not read; give the checkpoint that it was converted from",
    b"PK\x03\x04": "a zip archive, as torch.save writes them; load it with transformers and save it with "
    "save_pretrained",
    b"\x80\x02": "a pickle of PyTorch; load it with transformers and save it with save_pretrained",
    b"\x80\x04": "a pickle of PyTorch; load it with transformers and save it with save_pretrained",
    b"\x89HDF": "an HDF5 file, as Keras writes them; give a checkpoint in safetensors",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"(\xb5/\xfd": "compressed with zstd; unpack it",
}


def stand_in(path: Path) -> str | None:
    """What the file is instead, and what to do, as the rest of a sentence that its path begins; None if unknown.

    Raises OSError if the file cannot be read.
    """
    if path.is_dir():
        return "is a folder, not a file; remove it and download the file again."
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is gone (a partial download, or a pruned cache); download it again."
    if path.exists() and not path.is_file():
        return "is no regular file; put the file itself there."
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty; download it again."
    if _LFS.match(head):
        return "is a Git LFS pointer, not the file itself; run git lfs pull in its folder, or download it again."
    if _PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "is a web page (an error or a login saved in place of the file); download it again."
    known = next((what for start, what in _FORMATS.items() if head.startswith(start)), None)
    if known:
        return f"is {known}."
    # Neither JSON nor a safetensors file begins like this.
    start = head[:80].decode("ascii", errors="replace").strip()
    words = len(head) < 200 and head[:1].isalpha()
    if start.isprintable() and start.isascii() and (words or path.suffix == ".safetensors"):
        return f"holds the words {start!r}, which a server gave instead of the file; download it again."
    return None


def refuse_stand_in(path: Path) -> None:
    """Raise CheckpointError if a file that exists, or a dangling link, is not what its name says."""
    try:
        if (path.exists() or path.is_symlink()) and (what := stand_in(path)):
            raise CheckpointError(f"{path} {what}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from None
