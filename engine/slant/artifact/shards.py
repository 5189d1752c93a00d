"""Files of tensors in the safetensors format, made in pieces.

``safetensors.torch.save_file`` holds a second copy of what it writes; an artifact is made one shard at a time in little
more memory than the shard itself. Reading is left to the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

PIECE = 16 << 20  # bytes
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def safetensors(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The file's content: header, then tensors by falling item size, so that each is aligned. Copies nothing on a CPU.

    Raises KeyError for a dtype other than float32, bfloat16, float16 and uint8.
    """
    return stream({name: (_CODES[tensor.dtype], tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__)


def stream(layout: Mapping[str, tuple[str, Sequence[int]]], read: Callable[[str], Tensor]) -> Iterator[memoryview]:
    """The same of tensors that are read one at a time: ``layout`` has the dtype, as "BF16", and the shape of each.

    Raises ValueError if ``read`` gives a tensor of another dtype or shape.
    """
    ordered = sorted(layout, key=lambda name: (-_DTYPES[layout[name][0]].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        code, shape = layout[name]
        start, end = end, end + math.prod(shape) * _DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        tensor = read(name)
        if (_CODES[tensor.dtype], tuple(tensor.shape)) != (layout[name][0], tuple(layout[name][1])):
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {layout[name]}.")
        data = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
