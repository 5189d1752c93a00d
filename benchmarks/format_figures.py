"""The tables of results/formats.jsonl, as ``report.py`` writes them into docs/benchmarks.md, and points to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.prose import listed, made, paragraph
from harness.rows import Row
from harness.tables import distinct, markdown

DRIFT = "drift"  # the kind of rows that are of a model of their own
SINGLE = ("1x900", "1x128")  # the texts by which speeds are compared, the first that was measured
BASES = ("fp32", "bf16")  # and the format that they are compared with


def newest_formats(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each instruction set, format and workload, on the newest row's model, processor and threads.

    Rows of drift likewise, on the newest of their own.
    """
    rows = [row for row in rows if row["kind"] != "end"]
    newest: list[Row] = []
    for some in ([row for row in rows if row["kind"] != DRIFT], [row for row in rows if row["kind"] == DRIFT]):
        same = ("model", "processor", "threads")
        alike = [row for row in some if all(row.get(key) == some[-1].get(key) for key in same)]
        newest += {(row["set"], row["format"], row["kind"], row.get("workload")): row for row in alike}.values()
    return newest


def formats(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each instruction set: a line a weight format. And what quantizing took."""
    rows = [row for row in rows if row["kind"] != DRIFT]
    if not rows:
        return
    yield paragraph(
        "Every weight format in a process of its own: seconds to load it and, from the start of the process, to the "
        "first answer; its peak memory, Python and torch included; seconds for one text of so many tokens after the "
        "prompt's prefix, and for 64 posts."
    )
    for name in distinct([row for row in rows if row["kind"] == "load"], "set"):
        loads, scored = of_set(rows, name)
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


def drift(rows: Sequence[Row]) -> Iterator[str]:
    """A table of the weight formats by instruction sets."""
    rows = [row for row in rows if row["kind"] == DRIFT and row["status"] == "ok"]
    if not rows:
        return
    yield paragraph(
        f"Drift of each weight format from fp32 on {rows[-1]['texts']} texts: the mean KL in nats; in brackets the "
        "99th percentile of |Δp|, and how many labels flip. Where bf16 is not native, arithmetic is fp32, "
        "and a checkpoint in BF16 as it is does not drift. Another model drifts differently: `slant drift` measures "
        "yours."
    )
    cells = {}
    for row in rows:
        kl = f"{row['kl']:.1e}" if row["kl"] else "0"
        cells[row["format"], row["set"]] = f"{kl} ({row['delta_p99']:.3f}; {row['flips']})"
    sets = {row["set"]: f"on {row['instructions']}" for row in rows}
    lines = [[each, *(cells.get((each, name), "") for name in sets)] for each in distinct(rows, "format")]
    yield markdown(["", *sets.values()], lines, numbers=True)
    yield made(rows)


def drift_by_speed(rows: Sequence[Row]) -> list[Row]:
    """A point for each format of which an instruction set has drift, speed and memory; for ``pictures.formats``.

    ``speed`` is tokens/s relative to the format ``base`` for one text, ``workload``; ``model`` is that of speed and
    memory, ``drifting`` that of the drift.
    """
    points = []
    for row in rows:
        if row["kind"] != DRIFT or row["status"] != "ok":
            continue
        each, (loads, scored) = row["format"], of_set(rows, row["set"])
        base = next((name for name in BASES if any((name, load) in scored for load in SINGLE)), None)
        load = next((load for load in SINGLE if {(base, load), (each, load)} <= scored.keys()), None)
        if base is None or load is None or each not in loads:
            continue
        point = {key: row[key] for key in ("set", "instructions", "format", "kl")} | {"drifting": row["model"]}
        point |= {"base": base, "workload": load, "speed": scored[base, load] / scored[each, load]}
        points.append(point | {key: loads[each][key] for key in ("model", "peak_rss")})
    return points


def of_set(rows: Sequence[Row], name: str) -> tuple[dict[str, Row], dict[tuple[str, str], float]]:
    """Of an instruction set: the row of loading by format, and the median seconds by format and workload."""
    some = [row for row in rows if row["set"] == name]
    scored = [row for row in some if row["kind"] == "score" and row["seconds"]]
    seconds = {(row["format"], row["workload"]): row["seconds"]["p50"] for row in scored}
    return {row["format"]: row for row in some if row["kind"] == "load"}, seconds
