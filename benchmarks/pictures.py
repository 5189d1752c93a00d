"""All pictures, each out of the rows of one result file. Nothing here measures or reads a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator

from harness.plots import COLOURS, INK, MARKERS, End, label_ends, logarithmic, panels, save, series
from harness.rows import Row
from harness.tables import distinct

SERIES = {
    "one text": ("one text", 0),
    "texts of 128": ("texts of 128 tokens", 1),
    "texts of 1024": ("texts of 1024 tokens", 2),
}
DASHES = ("-", "--", ":")
BITS = {
    "uniform": "the same bits and groups everywhere",
    "named": "hqq8, hqq4, hqq3, hqq2",
    "own group size": "bits chosen by sensitivity, same size",
    "all group sizes": "bits and groups chosen",
}
LEAST_KL = 1e-7  # what is below is drawn as this: a difference in the order of sums
AREA = 9  # of a marker, in square points a GB


def peers(rows: Sequence[Row], path: Path) -> None:
    """Tokens a second against the length of a single text, by system; the machine's limit if it is known."""
    single = [row for row in rows if row["texts"] == 1 and row["tokens_per_second"] and not row["reads_text"]]
    figure, ((axes,),) = panels(size=(7.5, 5.0))
    systems, ends = distinct(single, "system"), []
    projects = list(dict.fromkeys(system.split("-")[0] for system in systems))
    for number, system in enumerate(systems):
        points = sorted((row["tokens"], row["tokens_per_second"]) for row in single if row["system"] == system)
        project = system.split("-")[0]
        marker = MARKERS[sum(other.split("-")[0] == project for other in systems[:number]) % len(MARKERS)]
        colour, width = COLOURS[projects.index(project) % len(COLOURS)], 2.2 if project == "slant" else 1
        ends.append(series(axes, re.sub("-1$", "", system), points, colour, marker, lw=width))
    for limit in sorted({row["limit_tokens_per_second"] for row in single if row.get("limit_tokens_per_second")}):
        axes.axhline(limit, color=INK, ls="--", lw=1)
        ends.append(End("limit of the matrix products", axes.get_xlim()[1], limit, INK))
    axes.set(xlabel="tokens of a text, prompt included", ylabel="tokens/s", yscale="log")
    axes.set_title("One text at a time on a CPU")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())
    logarithmic(axes, {row["tokens"] for row in single})
    label_ends(axes, ends)
    save(figure, path)


def formats(points: Sequence[Row], path: Path) -> None:
    """Drift against speed of each weight format, markers as large as its memory: ``format_figures.drift_by_speed``."""
    sets, names, first = distinct(points, "set"), distinct(points, "format"), points[0]
    figure, (grid,) = panels(1, len(sets), (4.4, 3.8), sharey=True)
    ends: list[list[End]] = [[] for _ in sets]
    for axes, name, labels in zip(grid, sets, ends, strict=True):
        some = [point for point in points if point["set"] == name]
        for point in some:
            number, size, kl = names.index(point["format"]), point["peak_rss"] / 1e9, max(point["kl"], LEAST_KL)
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.scatter(point["speed"], kl, AREA * size, color=colour, marker=marker)
            label = f"{point['format']}, {size:.1f} GB" + ", no drift" * (point["kl"] < LEAST_KL)
            if point["workload"] != first["workload"]:
                label += f", {point['workload'].partition('x')[2]} tokens"
            labels.append(End(label, point["speed"], kl, colour))
        axes.axvline(1, color=INK, ls="--", lw=1)
        axes.set(yscale="log", xlabel=f"tokens/s relative to {some[0]['base']}")
        axes.set_title(some[0]["instructions"])
        axes.margins(0.12)
    grid[0].set_ylabel(f"mean KL to fp32 in nats, {first['drifting']}")
    tokens = first["workload"].partition("x")[2]
    figure.supxlabel(f"speed and memory: {first['model']}, a text of {tokens} tokens", color=INK, fontsize=9)
    for axes, labels in zip(grid, ends, strict=True):  # the last panel may have moved the axis of all
        label_ends(axes, labels)
    save(figure, path)


def cpu(rows: Sequence[Row], path: Path) -> None:
    """Tokens a second against length, of single texts and of eight, with the measured limit: a run of the CPU suite."""
    figure, ((axes,),) = panels()
    models, ends = [row for row in rows if row["group"] == "model"], []
    for texts, name, colour, marker in zip((1, 8), ("1 text", "8 texts"), COLOURS, MARKERS, strict=False):
        points = sorted((row["shape"][1], row["tokens_per_second"]) for row in models if row["shape"][0] == texts)
        if points:
            ends.append(series(axes, name, points, colour, marker))
    bounds = sorted((row["shape"][1], row["tokens"] / row["limit_s"]) for row in models if row["shape"][0] == 1)
    if bounds:
        ends.append(series(axes, "measured roofline of 1 text", bounds, INK, ls="--"))
    labels = {"xlabel": "tokens of a text after the prefix", "ylabel": "tokens/s"}
    axes.set(**labels, ylim=(0, None), title=f"The model on the CPU, {models[0]['model']}")
    logarithmic(axes, {row["shape"][1] for row in models})
    label_ends(axes, ends)
    save(figure, path)


def growth(rows: Sequence[Row], path: Path) -> None:
    """Seconds against length and against the number of texts, with the fitted slopes: a run of ``growth.py``."""
    figure, ((left, right),) = panels(columns=2, size=(5.6, 3.6))
    for axes, grows, names in ((left, "length", ["one text"]), (right, "texts", ["texts of 128", "texts of 1024"])):
        some, ends = [row for row in rows if row.get("series") in names and row["kind"] in ("point", "slope")], []
        for name in names:
            ends += _grown(axes, [row for row in some if row["series"] == name], grows)
        axes.set(yscale="log", ylabel="seconds")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        logarithmic(axes, {row[grows] for row in some if row["kind"] == "point"})
        label_ends(axes, ends)
    left.set(xlabel="tokens of a text after the prefix", title="One text of growing length")
    right.set(xlabel="texts in a call", title="A growing number of texts")
    save(figure, path)


def _grown(axes: Any, rows: Sequence[Row], grows: str) -> list[End]:
    """Draws medians with p20 and p80, and a line for each slope."""
    points = [row for row in rows if row["kind"] == "point"]
    if not points:
        return []
    name, number = SERIES[points[0]["series"]]
    colour, x, y = COLOURS[number], [row[grows] for row in points], [row["seconds"] for row in points]
    spread = [[s["p50"] - s["p20"] for s in y], [s["p80"] - s["p50"] for s in y]]
    axes.errorbar(x, [s["p50"] for s in y], spread, fmt=MARKERS[number], color=colour, lw=1)
    ends = [End(name, x[-1], y[-1]["p50"], colour)]
    for row, dash in zip((row for row in rows if row["kind"] == "slope"), DASHES, strict=False):
        line = [(size, row["seconds_at_1"] * size ** row["exponent"]) for size in (row["first"], row["last"])]
        label = f"{row['first']} to {row['last']}: power {row['exponent']:.2f}"
        ends.append(series(axes, label, line, colour, ls=dash, lw=1))
    return ends


def baselines(quality: Sequence[Row], timings: Mapping[str, Row], path: Path) -> None:
    """Accuracy with its interval beside texts a second, a line a system and a pair of panels a task.

    Systems that were not timed are left out.
    """
    timed = {name: row["texts_per_second"] for name, row in timings.items() if row.get("texts_per_second")}
    drawn = [row for row in quality if row["status"] == "ok" and row["system"] in timed]
    tasks = distinct(drawn, "task")
    if not tasks:
        return
    drawn.sort(key=lambda row: row["accuracy"][0])
    most = max(sum(row["task"] == task for row in drawn) for task in tasks)
    figure, grid = panels(len(tasks), 2, (4.2, 0.9 + 0.19 * most), sharey="row", width_ratios=[1.6, 1])
    for (accuracy, speed), task in zip(grid, tasks, strict=True):
        some = [row for row in drawn if row["task"] == task]
        sizes = distinct([row for row in some if row["fitted"]], "training_texts")
        names = [
            row["system"] + f", {row['training_texts']:,} texts" * (row["fitted"] and len(sizes) > 1) for row in some
        ]
        for place, row in enumerate(some):
            value, low, high = row["accuracy"]
            ours = row["system"].startswith("slant-")
            spread = None if low is None else [[value - low], [high - value]]
            style = {"color": COLOURS[0 if ours else 1], "fmt": MARKERS[0 if ours else 1], "lw": 1}
            accuracy.errorbar(value, place, xerr=spread, **style)
            if row["system"] == "majority":
                accuracy.axvline(value, color=INK, ls="--", lw=1)
            else:
                speed.errorbar(timed[row["system"]], place, **style)
        accuracy.set_yticks(range(len(some)), names)
        accuracy.set(
            title=f"{task}: {some[0]['texts']} texts, {len(some[0]['labels'])} labels", xlabel="accuracy, 95 % interval"
        )
        speed.set(title="speed, log scale", xlabel="texts/s", xscale="log")
        speed.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    save(figure, path)


def lora_sweep(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against LoRA's alpha with its interval, a line for each rank."""
    figure, ((axes,),) = panels()
    alphas, ends = sorted({row["alpha"] for row in rows}), []
    for number, rank in enumerate(sorted({row["rank"] for row in rows})):
        some = sorted((row["alpha"], row["accuracy"]) for row in rows if row["rank"] == rank)
        x = [alphas.index(alpha) + 0.06 * (number - 1) for alpha, _ in some]  # beside one another
        y = [value for _, (value, _, _) in some]
        spread = [[value - (value if low is None else low) for _, (value, low, _) in some]]
        spread += [[(value if high is None else high) - value for _, (value, _, high) in some]]
        axes.errorbar(x, y, spread, marker=MARKERS[number], color=COLOURS[number], ls=DASHES[number % 3], lw=1)
        ends.append(End(f"rank {rank}: {y[-1]:.3f}", x[-1], y[-1], COLOURS[number]))
    axes.set_xticks(range(len(alphas)), alphas)
    title = f"MiniLM tuned with LoRA on {rows[0]['training_texts']:,} texts, {rows[0]['task']}"
    axes.set(xlabel="alpha", ylabel="accuracy, 95 % interval", title=title)
    label_ends(axes, ends)
    save(figure, path)


def mixed_bits(rows: Sequence[Row], path: Path) -> None:
    """KL on held-out texts against the bytes of the quantized matrices: one run of ``mixed_bits.py``."""
    figure, ((axes,),) = panels(size=(7.5, 4.4))
    ends = []
    for (kind, name), colour, marker in zip(BITS.items(), (INK, *COLOURS[1:]), MARKERS, strict=False):
        points = sorted({(row["matrix_bytes"], row["held_out_kl"]) for row in rows if row["kind"] == kind})
        ends.append(series(axes, name, points, colour, marker, ls="-" if kind == "all group sizes" else ""))
    axes.set(yscale="log", xlabel="kB of the quantized matrices", ylabel="mean KL on held-out texts, nats")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}")
    axes.set_title(f"The demo checkpoint, {rows[0]['held_out_texts']} texts that it was not calibrated with")
    label_ends(axes, ends)
    save(figure, path)


def gpu_waterfall(rows: Sequence[Row], path: Path) -> None:
    """The ops of one batch, those that lose most on top: time beside its limit, and the difference; two panels a card.

    Ops of less than a thousandth of the time are left out.
    """
    cards = distinct(rows, "gpu")
    figure, grid = panels(len(cards), 2, (4.2, 3.4), sharey="row", width_ratios=[1.5, 1])
    for (times, losses), card in zip(grid, cards, strict=True):
        some = [row for row in rows if row["gpu"] == card and row["share"] >= 1e-3]
        some.sort(key=lambda row: row["microseconds"] - row["limit_microseconds"])
        for place, row in enumerate(some):
            took, limit = row["microseconds"] / 1e3, row["limit_microseconds"] / 1e3
            if limit:
                times.plot([limit, took], [place, place], color=INK, lw=1)
                times.plot(limit, place, color=INK, marker="|", markersize=10)
            times.plot(took, place, color=COLOURS[0], marker=MARKERS[0])
            losses.barh(place, took - limit, color=COLOURS[1], height=0.6)
        times.set_yticks(range(len(some)), [row["op"] for row in some])
        times.set(xscale="log", xlabel="ms, log scale; dot: the time, tick: its limit")
        times.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        times.set_title(f"{card}, {some[-1]['weights']}, {some[-1]['batch']} tokens")
        losses.set(xlabel="ms", title="Time over the limit")
    save(figure, path)
