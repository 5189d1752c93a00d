"""What ``slant bench`` prints: tables of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slant.bench.turns import ENOUGH
from slant.evaluation.formatting import terminal_table
from slant.runtime.memory import human

Report = Mapping[str, Any]  # as ``measure`` returns it


def terminal(report: Report) -> RenderableType:
    """All tables, and notes on them."""
    tables = loading(report), memory(report), latency(report), throughput(report), roofline(report)
    return Group(heading(report), *(part for table in tables for part in (Text(), table)), *notes(report))


def heading(report: Report) -> Text:
    m, s, tier = report["machine"], report["settings"], report["tier"]
    device = m.get("gpu") or f"{m['processor']}, {m['threads']} of {m['cores']} threads"
    budget, longest = f"batches of {tier['token_budget']:,} tokens", f"prompts of at most {s['max_tokens']:,}"
    return Text.assemble(
        (f"{s['model']}\n", "bold"),
        f"{s['dtype']}, {tier['name']}, {budget}, {longest}\n",
        f"{device}; slant {m['slant']}, torch {m['torch']}",
    )


def loading(report: Report) -> Table:
    """Seconds from the start of the process to the first answer."""
    load = report["load_s"]
    rows = {
        "importing slant and torch": load["imports"],
        "tokenizer and weights": load["weights"],
        "prefix of the prompt, self-test": load["rest"],
        "warm-up with a first text": load["warmup"],
    }
    figures = [(name, f"{seconds:.2f}") for name, seconds in rows.items()]
    table = terminal_table(("step", "seconds"), figures, title="Loading", show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "ready after", f"{sum(rows.values()):.2f}"
    return table


def memory(report: Report) -> Table:
    """What was used, beside the prediction."""
    m, tier = report["memory"], report["tier"]
    gpu = "gpu" in report["machine"]
    beyond = "" if gpu else ", beyond before"
    rows = {
        "this process before loading": m["before"],
        "this process, loaded": m["after"],
        f"peak while loading{beyond}": m["loading"],
        f"peak with these workloads{beyond}": m["working"],
        "predicted for these workloads": m["predicted"],
        f"predicted up to {report['settings']['max_tokens']:,} tokens": m["predicted_up_to_max_tokens"],
    }
    figures = [(name, "unknown" if size is None else human(size)) for name, size in rows.items()]
    batches = human(m["predicted"] - tier["weights"] - tier["prefix"])
    caption = (
        f"predicted: {human(tier['weights'])} weights, {human(tier['prefix'])} prefix, {batches} batches; "
        "libraries and the allocator's reserve come on top"
    )
    return terminal_table(("memory of the GPU" if gpu else "memory", "bytes"), figures, title="Memory", caption=caption)


def latency(report: Report) -> Table:
    """Milliseconds of calls with one text, tokenization included."""
    rows = []
    for one in report["workloads"]:
        if one["kind"] == "one text":
            s = one["score_s"]
            figures = one["first_s"], *(s[name] for name in ("p50", "p90", "p99", "least", "most"))
            rows.append((f"{one['tokens']:,}", str(s["calls"]), *map(_ms, figures)))
    needed = ", ".join(f"p{q} needs {calls} calls" for q, calls in ENOUGH.items())
    return terminal_table(
        ("prompt", "calls", "first ms", "p50", "p90", "p99", "fastest", "slowest"),
        rows,
        left=0,
        title="Latency of one text, ms",
        caption=f"first: the first call of this length, after warm-up; {needed}",
    )


def throughput(report: Report) -> Table:
    """Rates of whole calls; tokens exclude padding."""
    rows = []
    for one in report["workloads"]:
        s = one["score_s"]
        half = (s["p75"] - s["p25"]) / 2 / s["p50"]
        rates = (_number(one[name]["p50"]) for name in ("texts_per_s", "tokens_per_s"))
        shares = f"{one['fill']:.0%}", f"{one['encode_share']:.1%}"
        rows.append((one["name"], str(s["calls"]), _ms(s["p50"]), f"±{half:.1%}", *rates, *shares))
    return terminal_table(
        ("texts", "calls", "ms", "spread", "texts/s", "tokens/s", "fill", "encoding"),
        rows,
        title="Throughput",
        caption="ms: median of a call; spread: half the interquartile range; tokens: of whole prompts, without "
        "padding; fill: share of computed tokens that are not padding; encoding: the tokenizer's share",
    )


def roofline(report: Report) -> Table:
    """Each workload beside the limit that was measured between its calls."""
    rows = []
    for one in report["workloads"]:
        limit, fraction = one["limit"], one["fraction_of_limit"]
        rates = _flops(one["flops_per_s"]["p50"]), _flops(limit["flops_per_s"])
        share = Text(f"{fraction:.0%}", style="yellow" if fraction > 1 else "bold")
        rows.append((one["name"], *rates, _ms(one["score_s"]["p50"]), _ms(limit["seconds"]), share, limit["bound"]))
    return terminal_table(
        ("texts", "FLOP/s", "products", "ms", "limit ms", "of limit", "bound by"),
        rows,
        title="Roofline, measured on this machine",
        caption="products: the matrix products alone, with cold weights and the tokens of a mean batch; reads: "
        f"{human(report['weight_bytes'])} of weights a batch at {human(report['read']['bytes_per_s'])}/s",
    )


def notes(report: Report) -> Iterator[Text]:
    for one in report["workloads"]:
        if one["fraction_of_limit"] > 1:
            yield Text(
                f"{one['name']}: the measured roofline is invalid, it was exceeded "
                f"({one['fraction_of_limit']:.2f} of it). Measure longer with --seconds on a quiet machine.",
                style="yellow",
            )
    if report["tier"]["offload"]:
        yield Text("The weights are offloaded; the limit of their transfer is not measured.", style="yellow")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else _number(1e3 * seconds)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} T" if rate >= 1e12 else f"{rate / 1e9:.3g} G"
