"""The pictures that reports share, as SVG text. Colours and fonts are classes of the page they stand in.

Every label, title and count is escaped here; nothing else comes from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from slant.artifact.drift_record import Calibration, Matrix

HOT = 0.7  # from this shade on, a cell's count is written in the colour of the paper
LETTER = 7.3  # width of a wide letter at the charts' font size


def heatmap(counts: Matrix, labels: Sequence[str], rows: str, columns: str) -> str:
    """Counts by two labels; a cell is as dark as its share of its row. ``rows`` and ``columns`` name the axes."""
    cell = max(34, min(64, 420 // len(labels)))
    wide = [_wrap(label, 12) for label in labels]
    left = 12 + LETTER * max(len(line) for lines in wide for line in lines)
    fits = LETTER * max(len(line) for lines in wide for line in lines) <= cell
    top, bottom = 26, (40 if fits else 24 + 5 * max(map(len, labels)))
    width, height = left + cell * len(labels) + 8, top + cell * len(labels) + bottom
    parts = [text(0, 12, f"{rows} ↓   {columns} →", "muted")]
    for i, row in enumerate(counts):
        y = top + i * cell
        parts.append(_lines(left - 8, y + cell / 2, wide[i], "end"))
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            title = f"{rows}: {labels[i]}, {columns}: {labels[j]}: {count:,} ({share:.1%} of the row)"
            x = left + j * cell
            frame = "cell diagonal" if i == j else "cell"
            parts.append(
                f'<g><title>{escape(title)}</title><rect class="{frame}" x="{x + 1:.1f}" y="{y + 1:.1f}" '
                f'width="{cell - 2}" height="{cell - 2}" rx="3"/><rect class="heat" x="{x + 1:.1f}" y="{y + 1:.1f}" '
                f'width="{cell - 2}" height="{cell - 2}" rx="3" fill-opacity="{share:.3f}"/>'
                + text(x + cell / 2, y + cell / 2 + 4, f"{count:,}" if count else "·", _ink(count, share), "middle")
                + "</g>"
            )
    for j, lines in enumerate(wide):
        x, y = left + (j + 0.5) * cell, top + cell * len(labels)
        if fits:
            parts.append(_lines(x, y + 8 + 7 * len(lines), lines, "middle"))
        else:
            parts.append(text(x + 4, y + 14, _short(labels[j], 16), "", "end", turn=-45))
    return svg(width, height, parts, f"{rows} against {columns}")


def reliability(series: Iterable[tuple[str, str, Calibration]]) -> str:
    """Outcome by confidence: (name, class of the colour, calibration) each; a dot's area is the bin's share of rows."""
    size, left, top = 360, 40, 12
    inner = size - left - top

    def x(value: float) -> float:
        return left + inner * value

    def y(value: float) -> float:
        return top + inner * (1 - value)

    parts = [grid(left, y(i / 5), size - top, y(i / 5), f"{i / 5:g}") for i in range(6)]
    parts += [text(x(i / 5), y(0) + 18, f"{i / 5:g}", "muted", "middle") for i in range(6)]
    parts.append(text(left + inner / 2, size - 2, "confidence", "muted", "middle"))
    parts.append(f'<line class="limit" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for name, colour, calibration in series:
        total = sum(b.rows for b in calibration.bins)
        line = " ".join(f"{x(b.confidence):.1f},{y(b.outcome):.1f}" for b in calibration.bins)
        parts.append(f'<polyline class="curve {colour}" points="{line}"/>')
        for b in calibration.bins:
            title = f"{name}: {b.rows:,} rows, confidence {b.confidence:.3f}, outcome {b.outcome:.3f}"
            parts.append(
                f'<circle class="dot {colour}" cx="{x(b.confidence):.1f}" cy="{y(b.outcome):.1f}" '
                f'r="{2.5 + 7 * math.sqrt(b.rows / total):.1f}"><title>{escape(title)}</title></circle>'
            )
    return svg(size, size + 4, parts, "outcome by confidence")


def grid(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    line = f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    return line + text(x1 - 7, y1 + 4, name, "muted", "end")


def _ink(count: int, share: float) -> str:
    return "muted" if not count else "hot" if share >= HOT else ""


def _wrap(label: str, width: int) -> list[str]:
    """The label on at most two lines, broken at a space."""
    first, _, rest = label.partition(" ")
    return [_short(label, width)] if not rest else [_short(first, width), _short(rest, width)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _lines(x: float, middle: float, lines: Sequence[str], anchor: str) -> str:
    top = middle + 4 - 7 * (len(lines) - 1)
    return "".join(text(x, top + 14 * i, line, "", anchor) for i, line in enumerate(lines))


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start", turn: int = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def svg(width: float, height: float, parts: Iterable[str], title: str, kind: str = "chart") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
