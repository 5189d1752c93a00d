"""The rows of ``compare.py`` as a Markdown table and a picture. Nothing here measures or reads a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STYLE = {"svg.hashsalt": "slant", "font.family": "sans-serif", "font.size": 9}  # the same bytes for the same rows
MARKERS = "os^vDxP*"


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last run's rows: of a system's rows for one workload the last, measured before those that were not."""
    last = max((row["run"] for row in rows), default=None)
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row["workload"], row["system"]
        if row["run"] == last and (row["status"] == "ok" or kept.get(key, row)["status"] != "ok"):
            kept[key] = row
    return list(kept.values())


def table(rows: Sequence[Row]) -> str:
    """Speed by workload, then memory by system, then what was not measured and why."""
    parts = [speeds(rows), memory(rows), absences(rows)] if rows else []
    return "\n\n".join(part for part in parts if part)


def speeds(rows: Sequence[Row]) -> str:
    """Tokens/s, and in brackets how many times as long as slant a system took; texts/s for one that reads texts."""
    cells = {(row["system"], row["workload"]): _speed(row) for row in rows}
    named = _ordered(rows, "workload")
    tokens = {row["workload"]: f"{row['tokens']} tokens" for row in rows}
    body = [[system, *(cells.get((system, name), "") for name in named)] for system in _ordered(rows, "system")]
    return _markdown(["tokens/s (time against slant's)", *named], [["", *(tokens[name] for name in named)], *body])


def memory(rows: Sequence[Row]) -> str:
    """By system: batch, seconds to load, memory in GB, and the largest difference from transformers in float32."""
    body = []
    for system in _ordered(rows, "system"):
        own = [row for row in rows if row["system"] == system]
        peaks = [row["peak_rss"] for row in own if row["peak_rss"]]
        differences = [row["agreement"] for row in own if row["agreement"] is not None]
        versions = own[0]["versions"] or {}
        body.append(
            [
                system,
                str(own[0]["batch"] or "its own"),
                _number(own[0]["load_s"], 1),
                *(_number(value and value / 1e9, 2) for value in (own[0]["rss_loaded"], own[0]["load_peak_rss"])),
                _number(max(peaks) / 1e9 if peaks else None, 2),
                _number(max(differences) if differences else None, 4),
                ", ".join(f"{name} {number}" for name, number in versions.items()),
                own[0]["note"],
            ]
        )
    head = ["system", "batch", "load s", "loaded GB", "loading peak GB", "peak GB", "logits off by", "versions", "note"]
    return _markdown(head, body)


def absences(rows: Sequence[Row]) -> str:
    """One line for every system that was not measured on a workload."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            reasons.setdefault((row["system"], row["status"]), []).append(row["workload"])
    return "\n".join(f"* {system} on {', '.join(on)}: {status}" for (system, status), on in reasons.items())


def plot(rows: Sequence[Row], path: Path) -> None:
    """An SVG of tokens/s against the length of a single text, both logarithmic; the limit of the machine if known."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        _plot(rows, path)


def _plot(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    single = [row for row in rows if row["texts"] == 1 and row["tokens_per_second"] and not row["reads_text"]]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    drawn: dict[str, int] = {}  # lines by project: one colour each
    for system in _ordered(single, "system"):
        points = sorted((row["tokens"], row["tokens_per_second"]) for row in single if row["system"] == system)
        project = system.split("-")[0]
        number = drawn[project] = drawn.get(project, -1) + 1
        style: dict[str, Any] = {
            "color": f"C{list(drawn).index(project)}",
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
        }
        axes.plot(*zip(*points, strict=True), linewidth=2.2 if project == "slant" else 1, label=system, **style)
    limits = {row["limit_tokens_per_second"] for row in rows if row.get("limit_tokens_per_second")}
    for limit in limits:
        axes.axhline(limit, color="black", linestyle="--", linewidth=1, label="limit of the matrix products")
    lengths = sorted({row["tokens"] for row in single})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a text, prompt included")
    axes.set_ylabel("tokens/s")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _speed(row: Row) -> str:
    if row["tokens_per_second"] is None:
        return "–"
    speed = f"{row['tokens_per_second']:.0f}" if not row["reads_text"] else f"{row['texts_per_second']:.1f} texts/s"
    return speed if row["ratio"] is None else f"{speed} ({row['ratio']:.2f})"


def _ordered(rows: Sequence[Row], key: str) -> list[str]:
    """The values of a key in the order in which they first appear."""
    return list(dict.fromkeys(row[key] for row in rows))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
