"""The charts of report pages, as SVG text. Colours and fonts are classes of the page that holds them.

Every label, title and count is escaped here; nothing else comes from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from slant.artifact.drift_record import Calibration, Matrix

HOT = 0.7  # from this shade on, a cell's count is written in the colour of the page
LETTER = 7.3  # width of a wide letter at the charts' font size
MOST_POINTS = 1500  # more would make the page heavy and the cloud no clearer
NOTABLE = 500  # of these, the ones that are never thinned out

Series = tuple[str, str, Calibration]  # name, class of the colour, what is drawn


def heatmap(counts: Matrix, labels: Sequence[str], rows: str, columns: str) -> str:
    """Counts by two labels; a cell is as dark as its share of its row. ``rows`` and ``columns`` name the axes."""
    cell = max(34, min(64, 420 // len(labels)))
    wide = [_wrap(label, 12) for label in labels]
    longest = LETTER * max(len(line) for lines in wide for line in lines)
    left, top, fits = 12 + longest, 26, longest <= cell
    bottom = 40 if fits else 24 + 5 * max(map(len, labels))
    width, height = left + cell * len(labels) + 8, top + cell * len(labels) + bottom
    parts = [_text(0, 12, f"{rows} ↓   {columns} →", "muted")]
    for i, row in enumerate(counts):
        y = top + i * cell
        parts.append(_lines(left - 8, y + cell / 2, wide[i], "end"))
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            title = f"{rows}: {labels[i]}, {columns}: {labels[j]}: {count:,} ({share:.1%} of the row)"
            x = left + j * cell
            box = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2}" height="{cell - 2}" rx="3"'
            ink = "muted" if not count else "hot" if share >= HOT else ""
            parts.append(
                f'<g><title>{escape(title)}</title><rect class="{"cell diagonal" if i == j else "cell"}" {box}/>'
                f'<rect class="heat" {box} fill-opacity="{share:.3f}"/>'
                + _text(x + cell / 2, y + cell / 2 + 4, f"{count:,}" if count else "·", ink, "middle")
                + "</g>"
            )
    for j, lines in enumerate(wide):
        x, y = left + (j + 0.5) * cell, top + cell * len(labels)
        if fits:
            parts.append(_lines(x, y + 8 + 7 * len(lines), lines, "middle"))
        else:
            parts.append(_text(x + 4, y + 14, _short(labels[j], 16), "", "end", turn=-45))
    return _svg(width, height, parts, f"{rows} against {columns}")


def reliability(series: Iterable[Series]) -> str:
    """Reliability diagram: mean outcome by mean confidence; a dot's area is its bin's share of the rows."""
    inner, left, right, top = 308, 40, 12, 26

    def x(value: float) -> float:
        return left + inner * value

    def y(value: float) -> float:
        return top + inner * (1 - value)

    parts = [_text(0, 12, "outcome ↑", "muted"), _text(x(0.5), y(0) + 38, "confidence", "muted", "middle")]
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(_grid_line(x(0), x(1), y(tick), f"{tick:g}"))
        parts.append(_text(x(tick), y(0) + 18, f"{tick:g}", "muted", "middle"))
    parts.append(f'<line class="limit" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for name, colour, calibration in series:
        total = sum(b.rows for b in calibration.bins)
        line = " ".join(f"{x(b.confidence):.1f},{y(b.outcome):.1f}" for b in calibration.bins)
        parts.append(f'<polyline class="curve {colour}" points="{line}"/>')
        for b in calibration.bins:
            title = f"{name}: {b.rows:,} rows, confidence {b.confidence:.3f}, outcome {b.outcome:.3f}"
            radius = 2.5 + 7 * math.sqrt(b.rows / total)
            dot = f'<circle class="dot {colour}" cx="{x(b.confidence):.1f}" cy="{y(b.outcome):.1f}" r="{radius:.1f}">'
            parts.append(f"{dot}<title>{escape(title)}</title></circle>")
    return _svg(left + inner + right, top + inner + 44, parts, "outcome by confidence")


def scatter(tokens: NDArray, delta: NDArray, flip: NDArray, p99: float) -> str:
    """|Δp| of each row by its prompt's tokens, flipped rows marked apart, with a line at the 99th percentile."""
    width, height, left, right, top, bottom = 820, 340, 54, 14, 26, 44
    y_ticks = ticks(max(float(delta.max()), 1e-9))
    first = math.floor(math.log2(tokens.min()))  # lengths on a logarithmic axis between powers of two
    last = max(math.ceil(math.log2(tokens.max())), first + 1)
    inner_w, inner_h = width - left - right, height - top - bottom

    def x(value: float) -> float:
        return left + inner_w * (math.log2(value) - first) / (last - first)

    def y(value: float) -> float:
        return top + inner_h * (1 - value / y_ticks[-1])

    parts = [_text(0, 12, "|Δp| ↑", "muted")]
    parts += [_grid_line(left, width - right, y(tick), f"{tick:g}") for tick in y_ticks]
    parts += [_text(x(2**i), height - bottom + 18, f"{2**i:,}", "muted", "middle") for i in range(first, last + 1)]
    parts.append(_text(left + inner_w / 2, height - 6, "tokens of the prompt", "muted", "middle"))
    for i in thinned(delta, flip)[::-1]:  # the notable ones last, on top
        kind, radius = ("flip", 4) if flip[i] else ("point", 3)
        parts.append(f'<circle class="{kind}" cx="{x(tokens[i]):.1f}" cy="{y(delta[i]):.1f}" r="{radius}"/>')
    parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" y1="{y(p99):.1f}" y2="{y(p99):.1f}"/>')
    # Below the line where there is no room above it.
    parts.append(_text(width - right, y(p99) + (-5 if y(p99) > top + 14 else 14), "99th percentile", "halo", "end"))
    return _svg(width, height, parts, "|Δp| by length", "chart wide")


def bars(p: Sequence[float], q: Sequence[float]) -> str:
    """A row's probabilities: of the reference as outlines, ours filled."""
    step, height = 18, 38
    parts = []
    for i, (theirs, mine) in enumerate(zip(p, q, strict=True)):
        for value, kind, inset in ((mine, "mine", 4.5), (theirs, "theirs", 2)):
            tall = max(value * (height - 2), 0.5)
            place = f'x="{i * step + inset}" y="{height - 1 - tall:.1f}"'
            parts.append(f'<rect class="{kind}" {place} width="{step - 2 * inset}" height="{tall:.1f}"/>')
    title = "reference " + ", ".join(f"{v:.3f}" for v in p) + "; ours " + ", ".join(f"{v:.3f}" for v in q)
    return _svg(step * len(p), height, parts, title, "bars")


def horizontal(entries: Sequence[tuple[str, float, str]], title: str, *, full: float | None = None) -> str:
    """A bar for each (name, value, what is written behind it); ``full`` is the value of a whole bar."""
    names = [_short(name, 28) for name, _, _ in entries]
    left = 14 + LETTER * max(map(len, names), default=0)
    inner, right, step, top = 260, 14 + LETTER * max((len(note) for _, _, note in entries), default=0), 26, 4
    most = full or max((value for _, value, _ in entries), default=0) or 1
    parts = []
    for i, (name, value, note) in enumerate(entries):
        y, wide = top + i * step, inner * min(value / most, 1)
        box = f'x="{left:.1f}" y="{y}" width="{max(wide, 1):.1f}" height="{step - 8}" rx="3"'
        parts.append(f'<g><title>{escape(f"{name}: {note}")}</title><rect class="mine" {box}/>')
        parts += [_text(left - 8, y + 14, names[i], "", "end"), _text(left + wide + 8, y + 14, note, "muted"), "</g>"]
    return _svg(left + inner + right, top + step * len(entries) + 4, parts, title)


def curve(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str) -> str:
    """A line through points (x, y, what stands at x), some of which are named; and the names of the axes."""
    width, height, left, right, top, bottom = 820, 260, 62, 24, 26, 44
    y_ticks = ticks(max(*(y for _, y, _ in points), 1e-9))
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1e-9)
    inner_w, inner_h = width - left - right, height - top - bottom

    def place(x: float, y: float) -> tuple[float, float]:
        return left + inner_w * (x - first) / (last - first), top + inner_h * (1 - y / y_ticks[-1])

    parts = [_text(0, 12, f"{y_name} ↑", "muted"), _text(left + inner_w / 2, height - 6, x_name, "muted", "middle")]
    parts += [_grid_line(left, width - right, place(first, tick)[1], f"{tick:,g}") for tick in y_ticks]
    line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y, _ in points)
    parts.append(f'<polyline class="curve second" points="{line}"/>')
    for x, y, name in points:
        at = place(x, y)
        dot = f'<circle class="dot second" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.5">'
        parts.append(f"{dot}<title>{escape(f'{name}: {y:,.4g}')}</title></circle>")
    for i in sorted({round(i * (len(points) - 1) / 6) for i in range(7)}):
        x, _, name = points[i]
        parts.append(_text(place(x, 0)[0], height - bottom + 18, name, "muted", "middle"))
    return _svg(width, height, parts, f"{y_name} by {x_name}", "chart wide")


def thinned(delta: NDArray, flip: NDArray) -> NDArray[np.int64]:
    """Indices of at most ``MOST_POINTS`` rows, flips and the largest first, then evenly spaced ones of the rest."""
    order = np.lexsort((-delta, ~flip))
    if len(order) <= MOST_POINTS:
        return order
    rest = np.linspace(NOTABLE, len(order) - 1, MOST_POINTS - NOTABLE).astype(np.int64)
    return np.concatenate([order[:NOTABLE], order[rest]])


def ticks(high: float) -> list[float]:
    """Some five round numbers from 0 to the first that is not below ``high``."""
    power = 10.0 ** math.floor(math.log10(high / 5))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= high / 5 * (1 - 1e-9))
    return [float(f"{i * step:.12g}") for i in range(math.ceil(high / step - 1e-9) + 1)]


def _wrap(label: str, width: int) -> list[str]:
    """The label on at most two lines, broken at a space."""
    first, _, rest = label.partition(" ")
    return [_short(label, width)] if not rest else [_short(first, width), _short(rest, width)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _lines(x: float, middle: float, lines: Sequence[str], anchor: str) -> str:
    top = middle + 4 - 7 * (len(lines) - 1)
    return "".join(_text(x, top + 14 * i, line, "", anchor) for i, line in enumerate(lines))


def _grid_line(x1: float, x2: float, y: float, name: str) -> str:
    line = f'<line class="grid" x1="{x1:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y:.1f}"/>'
    return line + _text(x1 - 7, y + 4, name, "muted", "end")


def _text(x: float, y: float, words: str, style: str = "", anchor: str = "start", turn: int = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def _svg(width: float, height: float, parts: Iterable[str], title: str, kind: str = "chart") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
