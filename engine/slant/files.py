"""Files that survive a stop at any moment: under their name they are whole and on the disk, or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

PIECE = 16 << 20  # bytes
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def write_whole(path: Path, pieces: bytes | Iterable[memoryview]) -> tuple[int, str]:
    """Write a file under a hidden name, sync it and give it its own. Returns its size and its SHA-256."""
    hidden = path.with_name(f".{path.name}.writing")
    digest, size = hashlib.sha256(), 0
    with hidden.open("wb") as file:
        for piece in [memoryview(pieces)] if isinstance(pieces, bytes) else pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(path)
    sync_folder(path.parent)
    return size, digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """A safetensors file in pieces: beyond the tensors, which may lie in a mapped file, no copy is held."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # keeps each aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        data = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
