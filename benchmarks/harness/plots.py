"""The style of all pictures: SVG with real text on a transparent background, labels at the lines instead of a legend.

Text and axes are of a grey that has a contrast above 4 on white and on a dark page; lines differ in colour, marker and
dashes, so that they also differ in print. The same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

INK = "#767676"
COLOURS = ("#3b82c4", "#d9772b", "#3f9a5f", "#9468c9", "#c94f5d", "#2f9aa0", "#a08030", "#b85c9e")
MARKERS = "os^Dv<>P*X"
STYLE = {
    "svg.hashsalt": "slant",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}
GAP = 0.16  # inches between two labels


class End(NamedTuple):
    """A label and the point of a line that it belongs to."""

    text: str
    x: float
    y: float
    colour: str


def panels(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 3.6), **options: object
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``[rows, columns]``, each of a size in inches."""
    plt.rcParams.update(STYLE)
    figsize = (size[0] * columns, size[1] * rows)
    return plt.subplots(rows, columns, figsize=figsize, layout="constrained", squeeze=False, **options)


def series(
    axes: Axes, name: str, points: Sequence[tuple[float, float]], colour: str, marker: str = "", **style: Any
) -> End:
    """Draw points (x, y) as a line; its label, at its last point. ``style`` is matplotlib's."""
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, **style)
    return End(name, *points[-1], colour)


def logarithmic(axes: Axes, ticks: Iterable[int]) -> None:
    """A logarithmic x axis with these ticks only."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)], rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write the labels to the right of the axes, as near to their points as they fit below one another."""
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((to_axes.transform((end.x, end.y))[1], end) for end in ends)
    gap = GAP / (axes.figure.get_figheight() * axes.get_position().height)
    heights = [height for height, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    excess = max(0.0, heights[-1] - 1)
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], 1 - (len(heights) - 1 - i) * gap) if excess else heights[i]
    for height, (_, end) in zip(heights, placed, strict=True):
        axes.annotate(
            end.text,
            (end.x, end.y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            color=end.colour,
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": end.colour, "lw": 0.5, "alpha": 0.6, "relpos": (0, 0.5)},
        )


def save(figure: Figure, path: Path) -> None:
    """As SVG, or as what the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
