"""What a static batch costs: predicted seconds by rows and padded length, from a measured table or a formula.

The planner (``buckets.plan``) compares batches by these figures and keeps deadlines with them. Both forms count a row
of ``T`` tokens as ``T + attention * T * T`` tokens' worth of work: all else in a forward grows with T, attention with
its square. ``benchmarks/batch_costs.py`` measures a table on the device and the model at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slant.errors import SlantError
from slant.model.checkpoint import EMBEDDING, expected_shapes
from slant.model.config import ModelConfig

Seconds = NDArray[np.float64]
_KEYS = {"device", "model", "versions", "attention", "seconds"}


class Costs(Protocol):
    """Positive seconds that never fall as a batch gets more rows or a longer length."""

    def seconds(self, rows: ArrayLike, length: int) -> Seconds:
        """Predicted seconds of batches of each of ``rows`` texts, padded to ``length`` tokens; the shape is rows'."""


@dataclass(frozen=True)
class Formula:
    """``overhead`` seconds a batch and ``token`` seconds a token's worth of work."""

    overhead: float
    token: float
    attention: float = 0.0

    def seconds(self, rows: ArrayLike, length: int) -> Seconds:
        return self.overhead + np.asarray(rows) * (self.token * _work(length, self.attention))


class Rates(NamedTuple):
    """``flops`` and ``bytes`` a second that a whole forward reaches, and ``dispatch`` seconds a layer."""

    flops: float
    bytes: float
    dispatch: float


# By device type and bytes a weight.
# CPU: FLOPs a thread and memory of the whole machine as fitted to two threads of an AVX512-BF16 processor (0.8B shape:
# 27 ms a batch and 1.5 ms a token in bf16, 33 and 2.5 in fp32); 40 torch calls of 10 us.
# CUDA, nothing of it measured: 40 % of the dense bf16 rate of a data sheet, as elementwise work and the recurrence take
# their share, between an A100 (125e12) and an H100 (396e12); the memory rate of an A100; fp32 without tensor cores; 12
# launches of 10 us.
RATES = {
    ("cpu", 2): Rates(316e9, 55e9, 0.4e-3),
    ("cpu", 4): Rates(195e9, 84e9, 0.4e-3),
    ("cuda", 2): Rates(250e12, 2e12, 0.12e-3),
    ("cuda", 4): Rates(20e12, 2e12, 0.12e-3),
}


def default_costs(config: ModelConfig, device: str, itemsize: int, threads: int = 1) -> Formula:
    """A default for a device type ("cpu" or "cuda") where nothing was measured; ``threads`` count on a CPU only.

    A batch reads all weights of ``itemsize`` bytes once and dispatches every layer, whatever its size; then each token
    takes its FLOPs. These are added although a GPU overlaps them, because products of few rows run below the rate: the
    sum is within 4 % of that CPU at 16 to 1024 tokens in bf16 (16 tokens: 53 ms, of which 24 at the rate).

    The planner decides by the overhead in tokens, which differs less between devices than either does: 18 on that CPU,
    260 for the 4B shape on CUDA, where the same reckoning gives 100 for an RTX 4090 and 340 for an H100. A deadline
    goes by the seconds themselves, so it needs a measured table.
    """
    rates = RATES[device, itemsize]
    token, square = forward_flops(config)
    read = token / 2 * itemsize / rates.bytes
    rate = rates.flops * (threads if device == "cpu" else 1)
    return Formula(read + config.num_hidden_layers * rates.dispatch, token / rate, square / token)


def forward_flops(config: ModelConfig) -> tuple[float, float]:
    """FLOPs of a row of T tokens are ``a * T + b * T * T``: a of the linear layers, b of the causal attentions.

    The last block, which works for one position, counts with its keys and values, or its DeltaNet inputs, only.
    """
    last = f"layers.{config.num_hidden_layers - 1}."
    one_position = [last + part for part in ("mlp.", "self_attn.q_proj", "self_attn.o_proj", "linear_attn.out_proj")]
    matrices = {name: shape for name, shape in expected_shapes(config).items() if len(shape) == 2 and name != EMBEDDING}
    token = sum(2 * math.prod(shape) for name, shape in matrices.items() if not name.startswith(tuple(one_position)))
    attentions = config.layer_types[:-1].count("full_attention")
    return float(token), 2.0 * attentions * config.num_attention_heads * config.head_dim


@dataclass(frozen=True)
class Table:
    """Measured seconds by (rows, length), at any points.

    Between them seconds are linear in rows and in work. Beyond them they grow in proportion to rows and to work, which
    is slightly too much as the overhead grows along; below the fewest rows or the shortest length they stay. Where a
    smaller batch was measured slower than a larger one, the larger counts as slow as that.
    """

    device: str
    model: str
    versions: Mapping[str, str]
    attention: float
    points: Mapping[tuple[int, int], float]

    def seconds(self, rows: ArrayLike, length: int) -> Seconds:
        counts, works, grid = self._grid
        at = _work(length, self.attention)
        above = int(np.searchsorted(works, at))
        if above == 0:
            line = grid[0]
        elif above == len(works):
            line = grid[-1] * (at / works[-1])
        else:
            below = above - 1
            share = (at - works[below]) / (works[above] - works[below])
            line = grid[below] + share * (grid[above] - grid[below])
        rows = np.asarray(rows, dtype=np.float64)
        return np.interp(rows, counts, line) * np.maximum(1, rows / counts[-1])

    @cached_property
    def _grid(self) -> tuple[Seconds, Seconds, Seconds]:
        """Rows ``[R]``, works ``[L]`` and seconds ``[L, R]``, which fall along neither axis."""
        counts = np.array(sorted({rows for rows, _ in self.points}), dtype=np.float64)
        lengths = sorted({length for _, length in self.points})
        lines = []
        for length in lengths:
            measured = np.array(sorted((rows, s) for (rows, at), s in self.points.items() if at == length))
            line = np.interp(counts, measured[:, 0], np.maximum.accumulate(measured[:, 1]))
            lines.append(line * np.maximum(1, counts / measured[-1, 0]))
        works = np.array([_work(length, self.attention) for length in lengths])
        return counts, works, np.maximum.accumulate(np.stack(lines))

    def write(self, path: Path) -> None:
        """Write the table as JSON, a point a line."""
        fields = {"device": self.device, "model": self.model, "versions": self.versions, "attention": self.attention}
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in fields.items()]
        points = ",\n".join(f"  {json.dumps([*point, s])}" for point, s in sorted(self.points.items()))
        path.write_text("\n".join(["{", *lines, ' "seconds": [', points, " ]", "}", ""]), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read what ``write`` wrote; raises SlantError if the file is missing or is no such table."""
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SlantError(f"{path} cannot be read ({error.strerror}); measure the costs again.") from None
        except (ValueError, OverflowError) as error:
            raise SlantError(f"{path} is no table of batch costs: {error}; measure the costs again.") from None

    @classmethod
    def parse(cls, raw: Any) -> Table:
        """The table from the decoded JSON; raises ValueError that says what is wrong."""
        if not isinstance(raw, dict) or raw.keys() != _KEYS:
            raise ValueError(f"it must be an object of {', '.join(sorted(_KEYS))}")
        for key in ("device", "model"):
            if not isinstance(raw[key], str):
                raise ValueError(f"{key} is {raw[key]!r}, not a string")
        versions = raw["versions"]
        if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
            raise ValueError("versions is not an object of strings")
        if not _is_number(raw["attention"]) or raw["attention"] < 0:
            raise ValueError(f"attention is {raw['attention']!r}, not a number from 0 on")
        rows = raw["seconds"]
        if not isinstance(rows, list) or not rows:
            raise ValueError("seconds holds no measured batch")
        points: dict[tuple[int, int], float] = {}
        for row in rows:
            if not isinstance(row, list) or len(row) != 3 or not all(_is_number(x) and x > 0 for x in row):
                raise ValueError(f"{row!r} in seconds is not [rows, length, seconds], all above 0")
            if not isinstance(row[0], int) or not isinstance(row[1], int):
                raise ValueError(f"{row!r} in seconds has rows or a length that is no whole number")
            if (row[0], row[1]) in points:
                raise ValueError(f"{row[0]} rows of {row[1]} tokens are there twice")
            points[row[0], row[1]] = float(row[2])
        return cls(raw["device"], raw["model"], versions, float(raw["attention"]), points)


def _work(length: int, attention: float) -> float:
    """Tokens' worth of work in a row of ``length`` tokens."""
    return length + attention * length * length


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
