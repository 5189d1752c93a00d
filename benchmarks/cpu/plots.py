"""The suite's pictures, out of rows of its result files: SVG on white, readable on a dark page too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]
COLOURS = {"one text": "#5e3c99", "texts of 128": "#e08214", "texts of 1024": "#2b83ba"}
LIMIT = "#8a8a8a"


def growth(rows: Sequence[Row], path: Path) -> None:
    """Seconds against length and against the number of texts, with the fitted slopes, of one run of ``growth.py``."""
    figure, (left, right) = panels(2)
    for axes, grows, size in ((left, "one text", "length"), (right, "texts of 128", "texts")):
        draw(axes, [row for row in rows if row.get("series") == grows], size, COLOURS[grows])
    draw(right, [row for row in rows if row.get("series") == "texts of 1024"], "texts", COLOURS["texts of 1024"])
    for axes, size in ((left, "length"), (right, "texts")):
        axes.set(yscale="log", ylabel="seconds")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        side = [row for row in rows if row.get("kind") == "point" and (row["series"] == "one text") == (axes is left)]
        logarithmic(axes, {row[size] for row in side})
    left.set_xlabel("tokens of one text after the prefix")
    right.set_xlabel("texts in a call")
    save(figure, path)


def draw(axes: Axes, rows: Sequence[Row], size: str, colour: str) -> None:
    """The points of a series, medians with p20 and p80, and a line for each slope."""
    measured = [row for row in rows if row["kind"] == "point"]
    if not measured:
        return
    x, y = [row[size] for row in measured], [row["seconds"] for row in measured]
    spread = [[s["p50"] - s["p20"] for s in y], [s["p80"] - s["p50"] for s in y]]
    name = measured[0]["series"]
    axes.errorbar(x, [s["p50"] for s in y], spread, fmt="o", ms=4, color=colour, label=name, lw=1)
    for row, style in zip((row for row in rows if row["kind"] == "slope"), ("-", "--", ":"), strict=False):
        ends = [row["first"], row["last"]]
        label = f"{row['first']} to {row['last']}: power {row['exponent']:.2f}"
        axes.plot(
            ends, [row["seconds_at_1"] * end ** row["exponent"] for end in ends], style, color=colour, lw=1, label=label
        )
    axes.legend(frameon=False, fontsize=8)


def rate(rows: Sequence[Row], path: Path) -> None:
    """Tokens a second against length, of single texts and of eight, with the measured limit: a run of the suite."""
    figure, (axes,) = panels(1)
    models = [row for row in rows if row["group"] == "model"]
    for texts, colour in ((1, COLOURS["one text"]), (8, COLOURS["texts of 128"])):
        some = sorted((row["shape"][1], row["tokens_per_second"]) for row in models if row["shape"][0] == texts)
        if some:
            label = f"{texts} text" + "s" * (texts > 1)
            axes.plot(*zip(*some, strict=True), "o-", ms=4, lw=1, color=colour, label=label)
    bounds = sorted((row["shape"][1], row["tokens"] / row["limit_s"]) for row in models if row["shape"][0] == 1)
    axes.plot(*zip(*bounds, strict=True), "--", color=LIMIT, lw=1.2, label="limit of 1 text: products and reads alone")
    axes.set(xlabel="tokens of a text after the prefix", ylabel="tokens a second", ylim=(0, None))
    logarithmic(axes, {row["shape"][1] for row in models})
    axes.legend(frameon=False)
    save(figure, path)


def logarithmic(axes: Axes, ticks: Iterable[int]) -> None:
    """A logarithmic x axis with these ticks only."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)], rotation=45)
    axes.minorticks_off()


def panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    plt.rcParams |= {"svg.hashsalt": "slant", "font.family": "sans-serif", "font.size": 9}
    figure, axes = plt.subplots(1, count, figsize=(4.5 * count + 1.5, 3.6), layout="constrained", squeeze=False)
    for each in axes[0]:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def save(figure: Figure, path: Path) -> None:
    """The same bytes for the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
