"""The rows of the comparison as Markdown: quality with its intervals beside speed and memory, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]
HEAD = ("", "trained on", "accuracy", "macro-F1", "mean absolute error", "texts/s", "peak memory")


def newest(rows: Sequence[Row]) -> tuple[list[Row], dict[str, Row]]:
    """The newest quality row of each system and training set, on each task's newest test set; timings by system."""
    data = {row["task"]: row["data"] for row in rows if row["kind"] == "quality"}
    quality = {
        (row["task"], row["training_texts"] if row["fitted"] else None, row["system"]): row
        for row in rows
        if row["kind"] == "quality" and row["data"] == data[row["task"]]
    }
    return list(quality.values()), {row["system"]: row for row in rows if row["kind"] == "timing"}


def table(rows: Sequence[Row]) -> str:
    """Everything that the newest rows say, one table a task."""
    quality, timings = newest(rows)
    parts = (_task([row for row in quality if row["task"] == task], timings) for task in _tasks(quality))
    return "\n\n".join(part for each in parts for part in each)


def _task(rows: Sequence[Row], timings: dict[str, Row]) -> Iterator[str]:
    known = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: -row["accuracy"][0])
    by = f"{rows[0]['groups']} groups of texts" if rows[0]["groups"] else "texts"
    against = next((row["against"] for row in rows if row.get("against")), None)
    difference = f"; then the difference from {against} with its own interval" if against else ""
    labels = rows[0]["labels"]
    yield (
        f"**{rows[0]['task']}**: {rows[0]['texts']} texts, {len(labels)} labels ({', '.join(labels)}). In brackets "
        f"95 % intervals, from resamples of {by}{difference}."
    )
    if known:
        body = [_line(row, timings.get(row["costs"], {})) for row in known]
        filled = [column for column in range(len(HEAD)) if any(line[column] for line in body)]
        yield _markdown([[line[column] for column in filled] for line in [HEAD, ["---", *["---:"] * 6], *body]])
    notes = dict.fromkeys(f"* {row['system']}: {row['note']}." for row in known if row["note"])
    absent = dict.fromkeys(f"* Without {row['system']}: {row['status']}" for row in rows if row["status"] != "ok")
    if notes or absent:
        yield "\n".join([*notes, *absent])


def _line(row: Row, timing: Row) -> list[str]:
    speed, memory = timing.get("texts_per_second"), timing.get("peak_rss")
    accuracy = _interval(row["accuracy"])
    if row.get("difference"):
        accuracy += f"; {_interval(row['difference'], '+')}"
    return [
        row["system"],
        f"{row['training_texts']:,}" if row["fitted"] else "",
        accuracy,
        _interval(row["macro_f1"]),
        _interval(row["mae"]) if row["mae"] else "",
        f"{speed:,.0f}" if speed else "",
        f"{memory / 1e9:.2f} GB" if memory else "",
    ]


def _interval(values: Sequence[float | None], sign: str = "") -> str:
    value, low, high = values
    bounds = "" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{value:{sign}.3f}{bounds}"


def _tasks(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in rows))


def _markdown(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
