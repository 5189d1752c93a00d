"""What ``slant bench`` prints: tables of a report."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from slant.bench.report import BenchReport
from slant.bench.turns import ENOUGH
from slant.runtime.memory import human


def terminal(report: BenchReport) -> RenderableType:
    """All tables, and notes on them."""
    tables = loading(report), memory(report), latency(report), throughput(report), roofline(report)
    return Group(heading(report), *(part for table in tables for part in (Text(), table)), *notes(report))


def heading(report: BenchReport) -> Text:
    m, s, tier = report.machine, report.settings, report.tier
    device = m.get("gpu") or f"{m['processor']}, {m['threads']} of {m['cores']} threads"
    return Text.assemble(
        (f"{s['model']}\n", "bold"),
        f"{s['dtype']}, {tier.name}, batches of {tier.token_budget:,} tokens, prompts of at most {s['max_tokens']:,}\n",
        f"{device}; slant {m['slant']}, torch {m['torch']}",
    )


def loading(report: BenchReport) -> Table:
    """Seconds from the start of the process to the first answer."""
    load = report.load
    rows = {
        "importing slant and torch": load.imports,
        "tokenizer and weights": load.weights,
        "prefix of the prompt, self-test": load.rest,
        "warm-up with a first text": load.warmup,
    }
    table = Table("step", _right("seconds"), title="Loading", show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "ready after", f"{sum(rows.values()):.2f}"
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.2f}")
    return table


def memory(report: BenchReport) -> Table:
    """What was used, beside the prediction."""
    m, tier = report.memory, report.tier
    gpu = "gpu" in report.machine
    rows = {
        "this process before loading": m.before,
        "this process, loaded": m.after,
        "peak while loading" + ("" if gpu else ", beyond before"): m.loading,
        "peak with these workloads" + ("" if gpu else ", beyond before"): m.working,
        "predicted for these workloads": m.predicted,
        f"predicted up to {report.settings['max_tokens']:,} tokens": tier.peak,
    }
    table = Table("memory" + (" of the GPU" if gpu else ""), _right("bytes"), title="Memory")
    for name, size in rows.items():
        table.add_row(name, "unknown" if size is None else human(size))
    batches = human(m.predicted - tier.weights - tier.prefix)
    table.caption = (
        f"predicted: {human(tier.weights)} weights, {human(tier.prefix)} prefix, {batches} batches; "
        "libraries and the allocator's reserve come on top"
    )
    return table


def latency(report: BenchReport) -> Table:
    """Milliseconds of calls with one text, tokenization included."""
    names = ("prompt", "calls", "first ms", "p50", "p90", "p99", "fastest", "slowest")
    table = Table(*map(_right, names), title="Latency of one text, ms")
    for one in report.workloads:
        if one.kind == "one text":
            s = one.score
            figures = one.first, s.p50, s.p90, s.p99, s.least, s.most
            table.add_row(f"{one.tokens:,}", str(s.calls), *(_ms(figure) for figure in figures))
    needed = ", ".join(f"p{q} needs {calls} calls" for q, calls in ENOUGH.items())
    table.caption = f"first: the first call of this length, after warm-up; {needed}"
    return table


def throughput(report: BenchReport) -> Table:
    """Rates of whole calls; tokens exclude padding."""
    names = ("calls", "ms", "spread", "texts/s", "tokens/s", "fill", "encoding")
    table = Table("texts", *map(_right, names), title="Throughput")
    for one in report.workloads:
        s = one.score
        table.add_row(
            one.name,
            str(s.calls),
            _ms(s.p50),
            f"±{(s.p75 - s.p25) / 2 / s.p50:.1%}",
            _number(one.texts / s.p50),
            _number(one.tokens / s.p50),
            f"{one.fill:.0%}",
            f"{one.encode_share:.1%}",
        )
    table.caption = (
        "ms: median of a call; spread: half the interquartile range; tokens: of whole prompts, without padding; fill: "
        "share of computed tokens that are not padding; encoding: the tokenizer's share"
    )
    return table


def roofline(report: BenchReport) -> Table:
    """Each workload beside the limit that was measured between its calls."""
    names = ("FLOP/s", "products", "ms", "limit ms", "of limit", "bound by")
    table = Table("texts", *map(_right, names), title="Roofline, measured on this machine")
    for one in report.workloads:
        table.add_row(
            one.name,
            _flops(one.flops / one.score.p50),
            _flops(one.rate.per_second),
            _ms(one.score.p50),
            _ms(one.limit.seconds),
            Text(f"{one.fraction:.0%}", style="yellow" if one.fraction > 1 else "bold"),
            one.limit.bound,
        )
    table.caption = (
        "products: the matrix products alone, with cold weights and the tokens of a mean batch; "
        f"reads: {human(report.weight_bytes)} of weights a batch at {human(report.read.per_second)}/s"
    )
    return table


def notes(report: BenchReport) -> Iterator[Text]:
    for one in report.exceeding:
        yield Text(
            f"{one.name}: the measured roofline is invalid, it was exceeded ({one.fraction:.2f} of it). "
            "Measure longer with --seconds on a quiet machine.",
            style="yellow",
        )
    if report.tier.offload:
        yield Text("The weights are offloaded; the limit of their transfer is not measured.", style="yellow")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else _number(1e3 * seconds)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} T" if rate >= 1e12 else f"{rate / 1e9:.3g} G"


def _right(name: str) -> Column:
    return Column(name, justify="right")
