"""Writes the figures of docs/benchmarks.md from the newest result rows, so that none is typed.

    python benchmarks/report.py            the part of docs/benchmarks.md between the markers, and the pictures it shows
    python benchmarks/report.py --check    exit 1 if the page is not what the rows give

The rows are those of results/peers.jsonl (the newest of each system and workload on the newest row's machine),
results/cpu.jsonl and results/growth.jsonl (the newest whole run). Of files that are not there nothing is said.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
WORKLOADS = ("1x128", "1x1024", "8x128", "posts", "speeches")  # of the peers, in the table
BASE = "slant bf16"  # what the ratios refer to
NOTHING = "Nothing was measured yet: `make bench` does it."
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a result file, oldest first; none if it is not there. ValueError for a line that is no JSON."""
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number}: no JSON; remove it.") from None
    return rows


def section(results: Path) -> str:
    """Everything between the markers."""
    compared = newest_peers(read(results / "peers.jsonl"))
    measured = newest_run(read(results / "cpu.jsonl"), "group", "model")
    grown = newest_run(read(results / "growth.jsonl"), "kind", "point")
    parts = [*peers(compared), *suite(measured), *growth(grown)]
    return "\n\n".join(parts or [NOTHING])


def newest_run(rows: Sequence[Row], key: str, needed: str) -> list[Row]:
    """The rows of the newest run among whose rows is one with ``needed`` under a key; a run is one time."""
    time = next((row["time"] for row in reversed(rows) if row[key] == needed), None)
    return [row for row in rows if row["time"] == time]


def newest_peers(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each system and workload, of the newest row's model, processor and threads."""
    if not rows:
        return []
    same = ("model", "processor", "threads")
    alike = [row for row in rows if all(row.get(key) == rows[-1].get(key) for key in same)]
    return list({(row["system"], row["workload"]): row for row in alike}.values())


def peers(rows: Sequence[Row]) -> Iterator[str]:
    """The table of systems by workloads, each system with its best variant, and why some have no figure."""
    rows = [row for row in rows if row["workload"] in WORKLOADS]
    if not rows:
        return
    variants: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        variants[family(row["system"])].append(row)
    workloads = [name for name in WORKLOADS if any(row["workload"] == name for row in rows)]
    lines, absent = [["", *workloads, "peak memory"], ["---", *["---:"] * (len(workloads) + 1)]], []
    for system in sorted(variants, key=lambda name: not name.startswith("slant")):
        done = [row for row in variants[system] if row.get("tokens_per_second")]
        if not done:
            absent.append(f"without {system}: {reason(variants[system][0])}")
            continue
        best = {row["workload"]: row for row in sorted(done, key=lambda row: row["tokens_per_second"])}
        memory = max((row["peak_rss"] or 0 for row in best.values()), default=0)
        cells = [rate(best[name]) if name in best else "" for name in workloads]
        lines.append([system, *cells, f"{memory / 1e9:.1f} GB" if memory else ""])
    if len(lines) > 2:
        yield paragraph(
            "Tokens a second, all systems in turn on the same texts, each with the best of its batch sizes; in brackets"
            " how many times as long as slant in bf16 it takes in the same rounds, the median. Compare by these:"
            " systems were measured in groups, and the machine's own speed changes between them. Whole computes the"
            " prompt's prefix with each text, as the other systems do."
        )
        yield "\n".join("| " + " | ".join(line) + " |" for line in lines)
        yield "![Tokens a second against length, by system](../benchmarks/results/peers.svg)"
    if absent:
        yield listed(absent)
    yield made(rows)


def family(system: str) -> str:
    """The name of a system without what says how it batches: "llama-q8_0-8" and "llama q8_0 x8" are "llama q8_0"."""
    return re.sub(r" (x?\d+|prefix)$", "", system.replace("-", " "))


def reason(row: Row) -> str:
    """Why a system was not measured."""
    return str(row.get("skipped") or row.get("status") or "no reason given").rstrip(".")


def rate(row: Row) -> str:
    """Tokens a second, or texts of a system that reads no tokens of ours, and the ratio to slant's seconds."""
    speed = f"{number(row['texts_per_second'])} texts" if row.get("reads_text") else number(row["tokens_per_second"])
    ours = row["system"].replace("-", " ") == BASE
    return speed if ours or not row.get("ratio") else f"{speed} ({row['ratio']:.2f})"


def suite(rows: Sequence[Row]) -> Iterator[str]:
    """What the CPU suite found of the whole model, of tokenizing and of starting, and its picture."""
    models = [row for row in rows if row["group"] == "model"]
    if not models:
        return
    limit = next(row for row in rows if row["group"] == "limit")
    fastest = max(models, key=lambda row: row["tokens_per_second"])
    longest = max(models, key=lambda row: row["shape"][1])
    yield "![Tokens a second against length, and the measured limit](../benchmarks/results/cpu.svg)"
    lines = [f"{texts(*row['shape'])}: {took(row)}" for row in (models[0], longest)]
    lines += [
        f"most tokens a second: {number(fastest['tokens_per_second'])}, with {texts(*fastest['shape'])}, "
        f"{fastest['of_limit']:.0%} of the limit: what its matrix products take at {limit['flops_per_s'] / 1e9:.0f} "
        f"GFLOP/s, or reading its weights at {limit['bytes_per_s'] / 1e9:.0f} GB/s, as measured in the same session"
    ]
    for row in rows:
        if row["group"] == "tokenization":
            lines.append(f"tokenizing {row['workload']}: {number(row['texts_per_second'])} texts a second")
        elif row["group"] == "cold_start":
            lines.append(f"a new process for `{row['workload']}`: {took(row)}")
    yield listed(lines)
    yield made(rows)


def growth(rows: Sequence[Row]) -> Iterator[str]:
    """The exponents, the flatness and the padding, each beside its aim, and the picture."""
    if not rows:
        return
    yield "![Seconds against length and against the number of texts](../benchmarks/results/growth.svg)"
    lines = []
    for row in rows:
        if row["kind"] == "slope" and row["part"] != "one batch":
            unit = "tokens of a text" if row["grows"] == "length" else "texts of 128 tokens"
            power = f"{row['exponent']:.2f} (95 % of resampled rounds: {row['low']:.2f} to {row['high']:.2f})"
            lines.append(f"from {row['first']} to {row['last']} {unit}, time grows to the power {power}")
        elif row["kind"] == "flatness":
            found, limit = row["best_over_worst"], row["aim"]
            line = f"1 to {row['to']} texts of {row['length']} tokens: the best rate is {found:.2f} times the worst"
            lines.append(line + aim(f"at most {limit:.2f}", found <= limit))
        elif row["kind"] == "padding":
            drawn = "" if row["real"] else " of drawn lengths"
            line = f"{row['texts']} {row['workload']}{drawn}: {row['fill']:.1%} of the computed tokens are real"
            lines.append(line + aim(f"at least {row['aim']:.0%}", row["fill"] >= row["aim"]))
    yield listed(lines)
    yield made(rows)


def made(rows: Sequence[Row]) -> str:
    """With what the rows were measured."""
    last = rows[-1]
    dates = sorted({row["time"][:10] for row in rows})
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    native = [name for name, there in (("AVX512-BF16", last["bf16"]), ("AMX", last["amx"])) if there]
    return paragraph(
        f"Model `{last['model']}`, {last['processor']} ({', '.join([last['capability'], *native])}), "
        f"{plural(last['threads'], 'thread')}, {when}, commit {commits}, torch {last['torch']}, transformers "
        f"{last['transformers']}."
    )


def aim(what: str, met: bool) -> str:
    return f" (the aim: {what}{'' if met else '; missed'})"


def texts(count: int, length: int) -> str:
    return f"{plural(count, 'text')} of {length} tokens"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count > 1)


def took(row: Row) -> str:
    """The median seconds with the 20th and 80th percentile."""
    low, middle, high = (f"{row['seconds'][key]:.3g}" for key in ("p20", "p50", "p80"))
    return f"{middle} s ({low} to {high})"


def number(value: float) -> str:
    """Three digits, or all of a whole number's, in groups of three."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def listed(lines: Iterable[str]) -> str:
    """A list of sentences."""
    found = [f"* {line[0].upper()}{line[1:]}." for line in lines]
    options: Any = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, 120, **options) for line in found)


def updated(readme: str, figures: str) -> str:
    """The page with figures between the markers; raises ValueError unless they are there once, in order."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{PAGE.name} must hold {BEGIN} and then {END}, once each.")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def draw(results: Path) -> None:
    """The pictures that the section shows."""
    from cpu import plots
    from peers import table

    if rows := newest_peers(read(results / "peers.jsonl")):
        table.plot(rows, results / "peers.svg")
    if rows := newest_run(read(results / "cpu.jsonl"), "group", "model"):
        plots.rate(rows, results / "cpu.svg")
    if rows := newest_run(read(results / "growth.jsonl"), "kind", "point"):
        plots.growth(rows, results / "growth.svg")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    old = options.readme.read_text(encoding="utf-8")
    try:
        new = updated(old, section(options.results))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        if new != old:
            print(f"{options.readme} is not what the rows give; run python benchmarks/report.py.", file=sys.stderr)
        return int(new != old)
    options.readme.write_text(new, encoding="utf-8")
    draw(options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
