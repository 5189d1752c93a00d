"""Files of tensors in the safetensors format, made in pieces.

``safetensors.torch.save_file`` holds a second copy of what it writes; an artifact is made one shard at a time in little
more memory than the shard itself. Reading is left to the library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

PIECE = 16 << 20  # bytes
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def safetensors(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The file's content: header, then tensors by falling item size, so that each is aligned. Copies nothing on a CPU.

    Raises KeyError for a dtype other than float32, bfloat16, float16 and uint8.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
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
