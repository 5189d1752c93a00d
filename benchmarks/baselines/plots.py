"""The comparison's pictures, out of its rows; SVG that is the same for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from baselines.table import newest
from cpu.plots import panels, save

Row = dict[str, Any]
MARKERS = "osD^v"  # by training set, the largest first; a system without one has the first
TWENTY = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]  # in pairs of a strong and a light one
COLOURS = TWENTY[::2] + TWENTY[1::2]
BETWEEN = 1.06  # training sets of a system stand beside each other


def trade(rows: Sequence[Row], path: Path) -> None:
    """Accuracy with its interval against texts a second, a panel a task; systems that were not timed are left out."""
    quality, timings = newest(rows)
    timed = {name: row["texts_per_second"] for name, row in timings.items() if row.get("texts_per_second")}
    drawn = [row for row in quality if row["status"] == "ok" and row["system"] in timed]
    tasks = list(dict.fromkeys(row["task"] for row in drawn))
    if not tasks:
        return
    names = sorted({row["system"] for row in drawn if row["system"] != "majority"})
    figure, panes = panels(len(tasks))
    legend: dict[str, Any] = {}
    for axes, task in zip(panes, tasks, strict=True):
        some = [row for row in drawn if row["task"] == task]
        sizes = sorted({row["training_texts"] for row in some if row["fitted"]}, reverse=True)
        for row in some:
            value, low, high = row["accuracy"]
            if row["system"] == "majority":
                label = "most frequent label of training"
                legend[label] = axes.axhline(value, color="#8a8a8a", lw=1, ls="--")
                continue
            size = sizes.index(row["training_texts"]) if row["fitted"] else 0
            label = row["system"] + (f", {row['training_texts']:,} texts" if row["fitted"] else "")
            spread = None if low is None else [[value - low], [high - value]]
            style: dict[str, Any] = {
                "fmt": MARKERS[size % len(MARKERS)],
                "color": COLOURS[names.index(row["system"]) % len(COLOURS)],
            }
            speed = timed[row["system"]] * BETWEEN**size
            legend[label] = axes.errorbar(speed, value, spread, ms=5, lw=1, label=label, **style)
        axes.set(title=task, xlabel="texts a second", ylabel="accuracy", xscale="log")
    names = sorted(legend)
    figure.legend([legend[name] for name in names], names, loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def heatmap(rows: Sequence[Row], path: Path) -> None:
    """Accuracy by rank and alpha, with the interval of each cell."""
    ranks, alphas = (sorted({row[key] for row in rows}) for key in ("rank", "alpha"))
    found = np.full((len(ranks), len(alphas)), np.nan)
    figure, (axes,) = panels(1)
    for row in rows:
        place = ranks.index(row["rank"]), alphas.index(row["alpha"])
        value, low, high = row["accuracy"]
        found[place] = value
        bounds = "" if low is None else f"\n{low:.3f} to {high:.3f}"
        axes.text(place[1], place[0], f"{value:.3f}{bounds}", ha="center", va="center", fontsize=8)
    image = axes.imshow(found, cmap="Purples", alpha=0.6, aspect="auto")
    axes.set(xlabel="alpha", ylabel="rank", title=f"{rows[0]['task']}: accuracy, {rows[0]['training_texts']:,} texts")
    axes.set_xticks(range(len(alphas)), alphas)
    axes.set_yticks(range(len(ranks)), ranks)
    axes.grid(False)
    figure.colorbar(image, ax=axes)
    save(figure, path)
