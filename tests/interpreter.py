"""What Triton's interpreter computes unlike a GPU, put right: it keeps bf16 and e4m3 as integers of their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

BITS = {"bf16": (torch.bfloat16, torch.int16, np.uint16), "fp8e4nv": (torch.float8_e4m3fn, torch.uint8, np.uint8)}


def correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """It truncates fp32 to bf16 and e4m3 instead of rounding, and multiplies the bits of bf16 operands of a dot."""
    from triton.runtime import interpreter

    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def converted(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source.name != "fp32" or target.name not in BITS:
            return convert(data, source, target, mode)
        dtype, bits, stored = BITS[target.name]
        return torch.from_numpy(np.array(data, dtype=np.float32)).to(dtype).view(bits).numpy().view(stored)

    def wide(x: Any) -> Any:
        if x.dtype.scalar != interpreter.tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

    def widened(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, wide(a), wide(b), *rest)

    monkeypatch.setattr(interpreter, "_convert_float", converted)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)
