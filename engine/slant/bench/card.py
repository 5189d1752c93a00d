"""A benchmark's report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from slant.bench.report import Report
from slant.bench.turns import ENOUGH
from slant.runtime.memory import human


def terminal(report: Report) -> RenderableType:
    """All tables, and what they do not say by themselves."""
    tables = loading(report), memory(report), latency(report), throughput(report), roofline(report)
    return Group(heading(report), *(part for table in tables for part in (Text(), table)), *notes(report))


def heading(report: Report) -> Text:
    m, s, tier = report.machine, report.settings, report.tier
    device = m.get("gpu") or f"{m['processor']}, {m['threads']} of {m['cores']} threads"
    return Text.assemble(
        (f"{s['model']}\n", "bold"),
        f"{s['dtype']}, {tier.name}, batches of {tier.token_budget:,} tokens, prompts of at most {s['max_tokens']:,}\n",
        f"{device}; slant {m['slant']}, torch {m['torch']}",
    )


def loading(report: Report) -> Table:
    """Seconds from nothing to the first answer."""
    load = report.load
    rows = {
        "importing slant and torch": load.imports,
        "reading: tokenizer, weights": load.weights,
        "the prompt's prefix, known answers": load.rest,
        "warm-up: the first text": load.warmup,
    }
    table = Table("step", _right("seconds"), title="Loading", show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "ready after", f"{sum(rows.values()):.2f}"
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.2f}")
    return table


def memory(report: Report) -> Table:
    """What was held, beside what the planner said."""
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
        f"predicted: {human(tier.weights)} of weights, {human(tier.prefix)} of prefix, {batches} of batches; "
        "libraries and what allocators keep come on top"
    )
    return table


def latency(report: Report) -> Table:
    """Milliseconds of calls with one text, the tokenization included."""
    names = ("prompt", "calls", "first ms", "p50", "p90", "p99", "fastest", "slowest")
    table = Table(*map(_right, names), title="Latency of one text, ms")
    for one in report.workloads:
        if one.kind == "one text":
            s = one.score
            figures = one.first, s.p50, s.p90, s.p99, s.least, s.most
            table.add_row(f"{one.tokens:,}", str(s.calls), *(_ms(figure) for figure in figures))
    table.caption = "first: of its length, after warm-up; " + ", ".join(
        f"p{q} from {needed} calls on" for q, needed in ENOUGH.items()
    )
    return table


def throughput(report: Report) -> Table:
    """Rates of whole calls, by real tokens."""
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
        "ms a call: median, and half the distance of its quartiles; tokens of whole prompts, without padding; fill: "
        "real of computed tokens; encoding: the tokenizer's share"
    )
    return table


def roofline(report: Report) -> Table:
    """Each workload beside the limit that was measured between its calls."""
    names = ("FLOP/s", "products", "ms", "limit ms", "of limit", "bound by")
    table = Table("texts", *map(_right, names), title="Roofline: a measured limit, not a data sheet's")
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
        "FLOP/s reached, and by the model's matrix products alone: cold weights, as many tokens as in a mean batch; "
        f"reads: {human(report.weight_bytes)} of weights a batch at {human(report.read.per_second)}/s"
    )
    return table


def notes(report: Report) -> Iterator[Text]:
    for one in report.beaten:
        yield Text(
            f"{one.name} was faster than its measured limit ({one.fraction:.2f} of it): that limit is none. "
            "Measure longer with --seconds on a quiet machine.",
            style="yellow",
        )
    if report.tier.offload:
        yield Text("The weights are offload from the host; that way's own limit is not measured.", style="yellow")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else _number(1e3 * seconds)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} T" if rate >= 1e12 else f"{rate / 1e9:.3g} G"


def _right(name: str) -> Column:
    return Column(name, justify="right")
