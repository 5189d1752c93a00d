"""Writes the figures of the pages from the newest result rows, so that none is typed, and draws all pictures.

    python benchmarks/report.py            the part of each page between the markers, and benchmarks/results/*.svg
    python benchmarks/report.py --check    exit 1 if a page is not what the rows give

The figures of docs/benchmarks.md are of results/peers.jsonl (the newest row of each system and workload on the newest
row's machine), of results/formats.jsonl likewise, and of results/cpu.jsonl and results/growth.jsonl (the newest whole
run). Those of docs/gpu.md and the README's paragraph on the GPU are of results/gpu_*.jsonl. A file that is not there is
left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from format_figures import drift, drift_by_speed, formats, newest_formats
from gpu import figures
from harness.prose import listed, made, number, paragraph, plural
from harness.rows import BENCHMARKS, RESULTS, Row, newest_run, read
from harness.tables import markdown
from slant_kernels.cpu import X86

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
WORKLOADS = ("1x128", "1x1024", "8x128", "posts", "speeches")  # of the peers, in the table
BASE = "slant bf16"  # what the ratios refer to
NOTHING = "Nothing was measured yet: `make bench` does it."
PICTURES = "../benchmarks/results"  # from the page


def section(results: Path) -> str:
    """Everything between the markers."""
    compared = newest_peers(read(results / "peers.jsonl"))
    by_format = newest_formats(read(results / "formats.jsonl"))
    measured = newest_run(read(results / "cpu.jsonl"), "group", "model")
    grown = newest_run(read(results / "growth.jsonl"), "kind", "point")
    parts = [part for i, rows in enumerate(by_instructions(compared)) for part in peers(rows, explained=not i)]
    if any(row["workload"] in WORKLOADS for row in compared):
        parts.append(f"![Tokens/s against the length of a text, by system]({PICTURES}/peers.svg)")
    parts += [*formats(by_format), *drift(by_format)]
    if drift_by_speed(by_format):
        parts.append(f"![Drift against speed, by weight format and instruction set]({PICTURES}/formats.svg)")
    parts += [*suite(measured), *growth(grown)]
    return "\n\n".join(parts or [NOTHING])


def newest_peers(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each system and workload by instruction set, on the newest row's model, processor and threads.

    Rows from before the instruction set was recorded count where there are no others.
    """
    same = ("model", "processor", "threads")
    alike = [row for row in rows if all(row.get(key) == rows[-1].get(key) for key in same)]
    alike = [row for row in alike if row.get("instructions")] or alike
    return list({(row.get("instructions"), row["system"], row["workload"]): row for row in alike}.values())


def by_instructions(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each instruction set, the best first."""
    sets = sorted({row.get("instructions") or "" for row in rows}, key=lambda name: name in X86 and -X86.index(name))
    return [[row for row in rows if (row.get("instructions") or "") == name] for name in sets]


def peers(rows: Sequence[Row], explained: bool = True) -> Iterator[str]:
    """The table of systems by workloads, each system with its best variant, and why some have no figure."""
    rows = [row for row in rows if row["workload"] in WORKLOADS]
    if not rows:
        return
    variants: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        variants[family(row["system"])].append(row)
    workloads = [name for name in WORKLOADS if any(row["workload"] == name for row in rows)]
    lines, absent = [], []
    for system in sorted(variants, key=lambda name: not name.startswith("slant")):
        done = [row for row in variants[system] if row.get("tokens_per_second")]
        if not done:
            absent.append(f"without {system}: {reason(variants[system][0])}")
            continue
        best = {row["workload"]: row for row in sorted(done, key=lambda row: row["tokens_per_second"])}
        memory = max((row["peak_rss"] or 0 for row in best.values()), default=0)
        cells = [rate(best[name]) if name in best else "" for name in workloads]
        apart = max((row["agreement"] for row in best.values() if row.get("agreement") is not None), default=None)
        ends = f"{memory / 1e9:.1f} GB" if memory else "", "" if apart is None else f"{apart:.3f}"
        lines.append([system, *cells, *ends])
    if lines and explained:
        yield paragraph(
            "Tokens/s, all systems in turn on the same texts, each with the best of its batch sizes. In brackets: how "
            "many times as long as slant in bf16 it takes in the same rounds, the median. Compare by these: systems "
            "were measured in groups, and the machine's own speed changes between them. Whole computes the prompt's "
            "prefix with each text, as the other systems do. The last column is the largest difference of a logit to "
            "transformers in fp32, each text's centred by their mean."
        )
    if lines:
        yield markdown(["", *workloads, "peak memory", "logits off by"], lines, numbers=True)
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
    yield f"![Tokens/s against the length of a text, and the measured roofline]({PICTURES}/cpu.svg)"
    lines = [f"{texts(*row['shape'])}: {took(row)}" for row in (models[0], longest)]
    lines += [
        f"most tokens/s: {number(fastest['tokens_per_second'])}, with {texts(*fastest['shape'])}, "
        f"{fastest['of_limit']:.0%} of the roofline: what its matrix products take at {limit['flops_per_s'] / 1e9:.0f} "
        f"GFLOP/s, or reading its weights at {limit['bytes_per_s'] / 1e9:.0f} GB/s, as measured in the same session"
    ]
    for row in rows:
        if row["group"] == "tokenization":
            lines.append(f"tokenizing {row['workload']}: {number(row['texts_per_second'])} texts/s")
        elif row["group"] == "cold_start":
            lines.append(f"a new process for `{row['workload']}`: {took(row)}")
    yield listed(lines)
    yield made(rows)


def growth(rows: Sequence[Row]) -> Iterator[str]:
    """The exponents, the flatness and the padding, each beside its aim, and the picture."""
    if rows:
        yield f"![Seconds against length and against the number of texts]({PICTURES}/growth.svg)"
        yield listed(growth_lines(rows))
        yield made(rows)


def growth_lines(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each slope, flatness and padding."""
    for row in rows:
        if row["kind"] == "slope" and row["part"] != "one batch":
            unit = "tokens of a text" if row["grows"] == "length" else "texts of 128 tokens"
            power = f"{row['exponent']:.2f} (95 % of resampled rounds: {row['low']:.2f} to {row['high']:.2f})"
            yield f"from {row['first']} to {row['last']} {unit}, time grows to the power {power}"
        elif row["kind"] == "flatness":
            found, limit = row["best_over_worst"], row["aim"]
            line = f"1 to {row['to']} texts of {row['length']} tokens: the best rate is {found:.2f} times the worst"
            yield line + aim(f"at most {limit:.2f}", found <= limit)
        elif row["kind"] == "padding":
            drawn = "" if row["real"] else " of drawn lengths"
            line = f"{row['texts']} {row['workload']}{drawn}: {row['fill']:.1%} of the computed tokens are real"
            yield line + aim(f"at least {row['aim']:.0%}", row["fill"] >= row["aim"])


def aim(what: str, met: bool) -> str:
    return f" (the aim: {what}{'' if met else '; missed'})"


def texts(count: int, length: int) -> str:
    return f"{plural(count, 'text')} of {length} tokens"


def took(row: Row) -> str:
    """The median seconds with the 20th and 80th percentile."""
    low, middle, high = (f"{row['seconds'][key]:.3g}" for key in ("p20", "p50", "p80"))
    return f"{middle} s ({low} to {high})"


def updated(page: str, figures: str) -> str:
    """The page with figures between the markers; raises ValueError unless they are there once, in order."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs {BEGIN} and {END} once each, in this order.")
    return page.partition(BEGIN)[0] + f"{BEGIN}\n{figures}\n{END}" + page.partition(END)[2]


def draw(results: Path) -> None:
    """All pictures of which there are rows."""
    import pictures
    from compare_baselines import newest as newest_baselines
    from sweep_lora import newest as newest_sweep

    found = {path.stem: read(path) for path in results.glob("*.jsonl")}
    chosen = {
        "peers": next(iter(by_instructions(newest_peers(found.get("peers", [])))), []),
        "formats": drift_by_speed(newest_formats(found.get("formats", []))),
        "cpu": newest_run(found.get("cpu", []), "group", "model"),
        "growth": newest_run(found.get("growth", []), "kind", "point"),
        "mixed_bits": newest_run(found.get("mixed_bits", []), "kind", "uniform"),
        "gpu_waterfall": figures.waterfalls(results),
        "lora_sweep": newest_sweep(found["lora_sweep"], found["lora_sweep"][-1]) if "lora_sweep" in found else [],
    }
    for name, rows in chosen.items():
        if rows:
            getattr(pictures, name)(rows, results / f"{name}.svg")
    if "baselines" in found:
        pictures.baselines(*newest_baselines(found["baselines"]), results / "baselines.svg")


PAGES: dict[str, Callable[[Path], str]] = {
    "docs/benchmarks.md": section,
    "docs/gpu.md": figures.section,
    "README.md": figures.summary,
}
"""What stands between the markers of a page."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--root", type=Path, default=BENCHMARKS.parent, help="the folder of README.md and docs/")
    options = parser.parse_args(arguments)
    stale = {}
    for name, write in PAGES.items():
        page = options.root / name
        old = page.read_text(encoding="utf-8")
        try:
            new = updated(old, write(options.results))
        except ValueError as error:
            print(f"{page} was left alone: {error}", file=sys.stderr)
            return 2
        if new != old:
            stale[page] = new
    for page, new in stale.items():
        if options.check:
            print(f"{page} is not what the rows give; run python benchmarks/report.py.", file=sys.stderr)
        else:
            page.write_text(new, encoding="utf-8")
    if not options.check:
        draw(options.results)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
