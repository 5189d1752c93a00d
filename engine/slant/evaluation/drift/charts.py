"""The pictures that only a drift report has, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.charts import grid, svg, text

POINTS = 1500  # more would make the page heavy and the cloud no clearer
NOTABLE = 500  # of these, the ones that are never thinned out


def scatter(tokens: NDArray, delta: NDArray, flip: NDArray, p99: float) -> str:
    """|Δp| of each row by its prompt's tokens, flipped rows marked apart, with a line at the 99th percentile."""
    width, height, left, right, top, bottom = 820, 330, 54, 14, 16, 44
    shown = thinned(delta, flip)
    y_ticks = ticks(0, max(float(delta.max()), 1e-9))
    x_of, x_ticks = _length_axis(float(tokens.min()), float(tokens.max()))
    inner_w, inner_h = width - left - right, height - top - bottom

    def x(value: float) -> float:
        return left + inner_w * x_of(value)

    def y(value: float) -> float:
        return top + inner_h * (1 - value / y_ticks[-1])

    parts = [grid(left, y(tick), width - right, y(tick), f"{tick:g}") for tick in y_ticks]
    parts += [text(x(tick), height - bottom + 18, f"{tick:,.0f}", "muted", "middle") for tick in x_ticks]
    parts.append(text(left + inner_w / 2, height - 6, "tokens of the prompt", "muted", "middle"))
    for i in shown[::-1]:  # the notable ones last, on top
        at = f'cx="{x(tokens[i]):.1f}" cy="{y(delta[i]):.1f}"'
        parts.append(f'<circle class="{"flip" if flip[i] else "point"}" {at} r="{4 if flip[i] else 3}"/>')
    parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" y1="{y(p99):.1f}" y2="{y(p99):.1f}"/>')
    # Below the line where there is no room above it.
    parts.append(text(width - right, y(p99) + (-5 if y(p99) > top + 14 else 14), "99th percentile", "halo", "end"))
    return svg(width, height, parts, "|Δp| by length", "chart wide")


def bars(p: Sequence[float], q: Sequence[float]) -> str:
    """A row's probabilities: of the reference as outlines, ours filled."""
    step, height = 18, 38
    parts = []
    for i, (theirs, mine) in enumerate(zip(p, q, strict=True)):
        for value, kind, inset in ((mine, "mine", 4.5), (theirs, "theirs", 2)):
            tall = max(value * (height - 2), 0.5)
            parts.append(
                f'<rect class="{kind}" x="{i * step + inset}" y="{height - 1 - tall:.1f}" '
                f'width="{step - 2 * inset}" height="{tall:.1f}"/>'
            )
    title = "reference " + ", ".join(f"{v:.3f}" for v in p) + "; ours " + ", ".join(f"{v:.3f}" for v in q)
    return svg(step * len(p), height, parts, title, "bars")


def thinned(delta: NDArray, flip: NDArray) -> NDArray[np.int64]:
    """Indices of at most ``POINTS`` rows, flips and the largest first, then evenly spaced ones of the rest."""
    order = np.lexsort((-delta, ~flip))
    if len(order) <= POINTS:
        return order
    rest = np.linspace(NOTABLE, len(order) - 1, POINTS - NOTABLE).astype(np.int64)
    return np.concatenate([order[:NOTABLE], order[rest]])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low``, a multiple of their step, to the first that is not below ``high``."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    steps = math.ceil((high - low) / step - 1e-9)
    return [float(f"{low + i * step:.12g}") for i in range(steps + 1)]


def _length_axis(low: float, high: float):  # type: ignore[no-untyped-def]
    """A map of tokens to 0..1 and the ticks: logarithmic from a factor of four on."""
    if high / low >= 4:
        first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
        return (lambda v: (math.log2(v) - first) / (last - first)), [2.0**i for i in range(first, last + 1)]
    step = max(10 ** math.floor(math.log10(max(high - low, 10))), 10)
    start = low // step * step
    marks = ticks(start, max(high, start + step))
    return (lambda v: (v - marks[0]) / (marks[-1] - marks[0])), marks
