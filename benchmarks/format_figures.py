"""The tables of results/formats.jsonl, as ``report.py`` writes them into docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.prose import listed, made, paragraph
from harness.rows import Row
from harness.tables import markdown


def newest_formats(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each instruction set, format and workload, on the newest row's model, processor and threads."""
    rows = [row for row in rows if row["kind"] != "end"]
    same = ("model", "processor", "threads")
    alike = [row for row in rows if all(row.get(key) == rows[-1].get(key) for key in same)]
    return list({(row["set"], row["format"], row["kind"], row.get("workload")): row for row in alike}.values())


def formats(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each instruction set: a line a weight format. And what quantizing took."""
    if not rows:
        return
    yield paragraph(
        "Every weight format in a process of its own: seconds to load it and, from the start of the process, to the "
        "first answer; its peak memory, Python and torch included; seconds for one text of so many tokens after the "
        "prompt's prefix, and for 64 posts."
    )
    for name in dict.fromkeys(row["set"] for row in rows if row["kind"] == "load"):
        loads = {row["format"]: row for row in rows if (row["set"], row["kind"]) == (name, "load")}
        scored = {
            (row["format"], row["workload"]): row["seconds"]["p50"]
            for row in rows
            if (row["set"], row["kind"]) == (name, "score") and row["seconds"]
        }
        loads = {each: row for each, row in loads.items() if any(key[0] == each for key in scored)}
        workloads = sorted({key[1] for key in scored}, key=lambda key: int(key.partition("x")[2] or 10**9))
        lines = []
        for each, row in loads.items():
            known = [f"{row['load_s']:.1f}", f"{row['cold_s']:.1f}", f"{row['peak_rss'] / 1e9:.1f} GB"]
            lines.append(
                [each, *known, *(f"{scored[key]:.3g}" if (key := (each, load)) in scored else "" for load in workloads)]
            )
        if lines:
            used = next(iter(loads.values()))["instructions"]
            yield markdown([f"on {used}", "load", "first answer", "peak memory", *workloads], lines, numbers=True)
    made_of = [row for row in rows if row["kind"] == "quantize" and row["status"] == "ok"]
    if made_of:
        took = (f"`slant quantize` to {row['format']}: {row['seconds']['p50']:.0f} s" for row in made_of)
        yield listed([f"{text}, {row['bytes'] / 1e9:.1f} GB" for text, row in zip(took, made_of, strict=True)])
    yield made(rows)
