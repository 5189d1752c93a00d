"""What the rows of the GPU suite say of each card, as text for docs/gpu.md and the README.

Of a card the newest rows of each measure and way of holding the weights count, and the newest of each group of checks:
a test that passes has no row of its own. Rows of tuning and of single ops are left out: they lead to configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.cold_start import PARTS
from gpu.model_tiers import WAYS
from harness.prose import listed, number, paragraph
from harness.rows import Row, read
from harness.tables import distinct, markdown
from harness.workloads import PREFIX

NOTHING = "No rows of a GPU are here: `python benchmarks/gpu_suite.py` writes them."
NO_SUMMARY = "[docs/gpu.md](docs/gpu.md) says how to measure a GPU."
OURS, THEIRS = "slant", "transformers"
PICTURE = "../benchmarks/results/gpu_waterfall.svg"  # from the page
REQUESTS = ((1, 16), (1, 128), (1, 1024), (8, 1024), (1, 8192))  # texts, tokens of each
POSTS, SPEECHES = ("posts", 512), ("speeches", 64)
PAIR = ("fp8", "bf16")
BATCHES = ("8 x 1024", "1 x 8192")  # by op, the first also as a picture
LEAST_SHARE = 0.01  # of an op with a line of its own
KERNELS = {"compiled": "none before", "cached": "by an earlier start", "ahead of time": "ahead of time"}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))


@dataclass(frozen=True)
class Card:
    """The rows of one card that count; ``failed`` are those of measures that gave none in their newest run."""

    name: str
    rows: Sequence[Row]
    failed: Sequence[Row]
    checks: Sequence[Row]

    def of(self, measure: str, **values: Any) -> list[Row]:
        """The rows of a measure with these values."""
        return [row for row in self.rows if row["measure"] == measure and values.items() <= row.items()]

    def first(self, measure: str, **values: Any) -> Row:
        """The first of them; empty if there is none."""
        return next(iter(self.of(measure, **values)), {})


def cards(results: Path) -> list[Card]:
    """All cards of the result files, the one measured last first."""
    rows, checks = (read(results / f"gpu_{name}.jsonl") for name in ("model", "correct"))
    found = []
    for name in distinct(rows, "gpu"):
        own = [row for row in rows if row["gpu"] == name]
        measured = newest([row for row in own if "failure" not in row], "measure", "weights")
        failed = [row for row in newest(own, "measure", "weights") if "failure" in row]
        checked = [row for row in checks if row.get("gpu") == name]
        found.append(Card(name, measured, failed, newest(checked, "group")))
    return sorted(found, key=lambda card: max((row["time"] for row in card.rows), default=""), reverse=True)


def newest(rows: Sequence[Row], *keys: str) -> list[Row]:
    """Of the rows that are alike in ``keys`` those of the newest time."""
    times: dict[tuple[Any, ...], str] = {}
    for row in rows:
        alike = tuple(row[key] for key in keys)
        times[alike] = max(times.get(alike, ""), row["time"])
    return [row for row in rows if row["time"] == times[tuple(row[key] for key in keys)]]


def section(results: Path) -> str:
    """The figures of all cards, one after the other."""
    found = cards(results)
    parts = [part for card in found for part in described(card)]
    if waterfalls(results):
        parts.append(f"![The time of each op of one batch beside its limit, and what it loses]({PICTURE})")
    return "\n\n".join(parts or [NOTHING])


def waterfalls(results: Path) -> list[Row]:
    """What the picture shows: the ops of one batch in bf16, of each card."""
    return [row for card in cards(results) for row in card.of("waterfall", weights="bf16", batch=BATCHES[0])]


def described(card: Card) -> Iterator[str]:
    """The paragraphs and tables of one card."""
    yield f"### {card.name}"
    if card.rows:
        yield made(card.rows)
    for part in (reached, right_or_wrong, ways, peers, starts, ops, failures):
        yield from part(card)


def made(rows: Sequence[Row]) -> str:
    """With what the rows were measured."""
    last = max(rows, key=lambda row: row["time"])
    dates, commits = sorted({row["time"][:10] for row in rows}), ", ".join(distinct(rows, "commit"))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return paragraph(
        f"{last['gpu']} (compute capability {last['compute_capability']}), driver {last['driver']}, torch "
        f"{last['torch']}, Triton {last['triton']}, {when}, commit {commits}; `python benchmarks/gpu_suite.py`. "
        f"The model has random weights of Qwen3.5-{last['model'].upper()}'s shape."
    )


def reached(card: Card) -> Iterator[str]:
    """What the card reaches."""
    if found := [f"{scaled(row['value'], row['unit'])} ({row['rate']})" for row in card.of("rates")]:
        yield paragraph(f"The card reaches {'; '.join(found)}.")


def scaled(value: float, unit: str) -> str:
    """Three digits with a prefix: "2.72 TB/s", "30.9 µs"."""
    size, prefix = next((pair for pair in PREFIXES if value >= pair[0]), PREFIXES[-1])
    return f"{number(value / size)} {prefix}{unit}"


def right_or_wrong(card: Card) -> Iterator[str]:
    """What the checks found, and which figures were taken although some had failed."""
    wrong = [row for row in card.checks if not row["right"]]
    if card.checks:
        groups = []
        for group in distinct(card.checks, "group"):
            own = [row["right"] for row in card.checks if row["group"] == group]
            groups.append(f"{group} {sum(own)} of {len(own)}")
        right = len(card.checks) - len(wrong)
        yield paragraph(f"Right or wrong: {right} checks are right and {len(wrong)} wrong ({', '.join(groups)}).")
    lines = [wrong_check(row) for row in wrong]
    for said in distinct(card.rows, "checks"):
        if "wrong" in said:
            names = distinct([row for row in card.rows if row["checks"] == said and row["weights"]], "weights")
            lines.append(f"{said} in the run that measured {', '.join(names)}")
    lines += [
        f"the graph of {row['texts']} x {row['tokens']} tokens with {row['weights']} answers otherwise than op by op"
        for row in card.of("latency", equals_eager=False)
    ]
    if lines:
        yield listed(lines)


def wrong_check(row: Row) -> str:
    about = ", ".join(str(row[key]) for key in ("check", "shape", "dtype") if row.get(key))
    sizes = [f"{name} {row[name]:.3g}" for name in ("error", "bound") if row[name] is not None]
    reason = (row["failure"] or row["note"]).strip().split("\n")[0].rstrip(".")
    return f"wrong: {row['group']}, {about}" + f" ({', '.join(sizes)})" * bool(sizes) + f": {reason}" * bool(reason)


def ways(card: Card) -> Iterator[str]:
    """A line for each way of holding the weights; columns without a figure are left out."""
    head = [f"{texts}x{tokens}, ms" for texts, tokens in REQUESTS]
    head += [f"{name}, tokens/s" for name, _ in (POSTS, SPEECHES)] + ["of the matmul rate", "peak (predicted)"]
    named = distinct([row for row in card.rows if row["measure"] in ("memory", "latency", "throughput")], "weights")
    order = [way.name for way in WAYS]
    named.sort(key=lambda name: order.index(name) if name in order else len(order))
    lines = [[name, *way(card, name)] for name in named]
    used = [0, *(i for i in range(1, len(head) + 1) if any(line[i] for line in lines))]
    if not lines:
        return
    yield paragraph(
        "Milliseconds from token ids to probabilities on the host, the median, of texts x tokens after the prompt's "
        "prefix; g: replayed as a CUDA graph, which was faster. Tokens/s of "
        f"{POSTS[1]} posts and of {SPEECHES[1]} speeches in one call count the whole prompt, the {PREFIX} tokens of "
        "the shared prefix included, which are computed once for all. Of the matmul rate: FLOP/s of linear layers and "
        "attention on the speeches, over those of the bf16 product. Peak: bytes of tensors while a text of 8192 tokens "
        "or as many short ones are computed, and what `slant inspect` predicts."
    )
    yield markdown([["weights", *head][i] for i in used], [[line[i] for i in used] for line in lines], numbers=True)


def way(card: Card, name: str) -> Iterator[str]:
    """The cells of its line."""
    for texts, tokens in REQUESTS:
        found = card.of("latency", weights=name, texts=texts, tokens=tokens)
        best = min(found, key=lambda row: row["milliseconds"]["p50"], default=None)
        yield number(best["milliseconds"]["p50"]) + " g" * (best["by"] == "graph") if best else ""
    totals = [
        card.first("throughput", weights=name, mixture=mixture, texts=count) for mixture, count in (POSTS, SPEECHES)
    ]
    yield from (number(row["tokens_per_s"]) if row else "" for row in totals)
    yield f"{totals[1]['of_matmul']:.0%}" if totals[1] else ""
    memory = card.first("memory", weights=name)
    yield f"{memory['peak_bytes'] / 1e9:.2f} GB ({memory['predicted_peak_bytes'] / 1e9:.2f})" if memory else ""


def peers(card: Card) -> Iterator[str]:
    """Slant beside transformers on the same texts."""
    rows, lines = card.of("peers"), []
    for mixture in distinct(rows, "mixture"):
        ours = card.first("peers", mixture=mixture, by=OURS)
        for theirs in (row for row in rows if row["mixture"] == mixture and row["by"] == THEIRS):
            if theirs.get("reason"):
                lines.append(f"{mixture}: {THEIRS} was not measured: {theirs['reason'].rstrip('.')}")
            elif ours:
                times = theirs["seconds"]["p50"] / ours["seconds"]["p50"]
                lines.append(
                    f"{ours['texts']} {mixture}: slant {number(ours['tokens_per_s'])} tokens/s, {THEIRS} "
                    f"{number(theirs['tokens_per_s'])}, {times:.2f} times as long"
                )
    if lines:
        fla = "with" if rows[-1]["fla"] else "without"
        yield paragraph(
            f"Beside transformers {rows[-1]['transformers']}, both in bf16, on the same texts in turn; transformers in "
            f"batches of {rows[-1]['peer_batch']} sorted by length, {fla} flash-linear-attention installed:"
        )
        yield listed(lines)


def starts(card: Card) -> Iterator[str]:
    """A new process to its first answer."""
    if rows := card.of("cold start"):
        yield "Seconds of a new process with the demo checkpoint in bf16, by what compiled the kernels:"
        lines = [
            [KERNELS.get(row["kernels"], row["kernels"])]
            + [f"{row['seconds'][part]:.2f}" for part in PARTS]
            + [f"{row['total_seconds']:.2f}"]
            for row in rows
        ]
        yield markdown(["kernels compiled", *PARTS, "total"], lines, numbers=True)


def ops(card: Card) -> Iterator[str]:
    """The ops of two batches, each op's share of the time and of its limit."""
    rows = [row for row in card.of("waterfall", weights="bf16") if row["batch"] in BATCHES]
    batches = [name for name in BATCHES if any(row["batch"] == name for row in rows)]
    if not batches:
        return
    found = {(row["op"], row["batch"]): row for row in rows}
    most = {op: max(row["share"] for row in rows if row["op"] == op) for op in distinct(rows, "op")}
    large = [op for op in sorted(most, key=lambda op: -most[op]) if most[op] >= LEAST_SHARE]
    lines = [[op, *(text for name in batches for text in op_cells(found.get((op, name), {})))] for op in large]
    rest = [sum(row["share"] for row in rows if row["op"] not in large and row["batch"] == name) for name in batches]
    lines += [["the rest", *(text for share in rest for text in (f"{share:.1%}", ""))]] if any(rest) else []
    times = []
    for name in batches:
        row = next(row for row in rows if row["batch"] == name)
        times.append(f"{number(1e3 * row['kernel_seconds'])} of {number(1e3 * row['batch_seconds'])} ms ({name})")
    above = any(row["of_limit"] > 1 for row in rows if row["op"] in large)
    yield paragraph(
        f"One batch in bf16 by op, texts x tokens: its share of the kernels' time, which is {' and '.join(times)}, and "
        "how near it comes to its limit, the time that its FLOPs or its bytes take at the rates above."
        + " Above 100 % it moves bytes faster than the kernel that the rate was measured with."
        * above
    )
    yield markdown(["op", *(f"{name}{text}" for name in batches for text in ("", ": of its limit"))], lines, True)


def op_cells(row: Row) -> tuple[str, str]:
    return (f"{row['share']:.1%}", f"{row['of_limit']:.0%}" * bool(row["limit_microseconds"])) if row else ("", "")


def failures(card: Card) -> Iterator[str]:
    """The measures that failed the last time they were tried."""
    lines = []
    for row in card.failed:
        what = " ".join(filter(None, (row["measure"], row.get("rate"), row["weights"])))
        last = row["failure"] if isinstance(row["failure"], str) else row["failure"][-1]
        lines.append(f"failed on {row['time'][:10]}: {what}: {last.strip().rstrip('.')}")
    if lines:
        yield listed(lines)


def summary(results: Path) -> str:
    """Two or three figures of the card that was measured last, for the README."""
    for card in cards(results):
        text = card.first("throughput", weights="bf16", mixture=POSTS[0], texts=POSTS[1])
        requests = card.of("latency", weights="bf16", texts=1, tokens=128)
        figures = [f"{number(text['texts_per_s'])} posts/s ({number(text['tokens_per_s'])} tokens/s)"] if text else []
        if requests:
            best = min(row["milliseconds"]["p50"] for row in requests)
            figures.append(f"{number(best)} ms for one text of 128 tokens")
        if memory := card.first("memory", weights="bf16"):
            figures.append(f"a peak of {memory['peak_bytes'] / 1e9:.1f} GB")
        eight, full = (card.first("throughput", weights=name, mixture=SPEECHES[0], texts=SPEECHES[1]) for name in PAIR)
        if eight:
            # Only within one run: between runs the card's own rate changes.
            paired = full and full["commit"] == eight["commit"]
            times = f", {eight['tokens_per_s'] / full['tokens_per_s']:.2f} times bf16's" if paired else ""
            figures.append(f"{number(eight['tokens_per_s'])} tokens/s of speeches in fp8{times}")
        if figures:
            last = max(card.rows, key=lambda row: row["time"])
            return paragraph(
                f"On one {card.name} with random weights of Qwen3.5-{last['model'].upper()}'s shape in bf16: "
                f"{', '.join(figures)}{beside(card)}. {last['time'][:10]}, `python benchmarks/gpu_suite.py`; "
                "[docs/gpu.md](docs/gpu.md) has all figures."
            )
    return NO_SUMMARY


def beside(card: Card) -> str:
    """How much longer transformers takes, of the mixture where it is nearest."""
    ratios = []
    for ours in card.of("peers", by=OURS):
        theirs = card.first("peers", mixture=ours["mixture"], by=THEIRS)
        if theirs.get("seconds"):
            ratios.append((theirs["seconds"]["p50"] / ours["seconds"]["p50"], ours))
    if not ratios:
        return ""
    ratio, ours = min(ratios, key=lambda pair: pair[0])
    return f"; transformers takes {ratio:.1f} times as long for {ours['texts']} {ours['mixture']}"
