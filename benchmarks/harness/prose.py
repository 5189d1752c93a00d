"""Figures as sentences: numbers with three digits, wrapped paragraphs, lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from harness.rows import Row


def number(value: float) -> str:
    """Three digits, or all of a whole number's, in groups of three."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count > 1)


def paragraph(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def listed(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return "\n".join(paragraph(f"* {line[0].upper()}{line[1:]}.", "  ") for line in lines)


def made(rows: Sequence[Row]) -> str:
    """With what the rows were measured."""
    last = rows[-1]
    dates = sorted({row["time"][:10] for row in rows})
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    native = [name for name, there in (("AVX512-BF16", last["bf16"]), ("AMX", last["amx"])) if there]
    used = ", ".join(dict.fromkeys(row["instructions"] for row in rows if row.get("instructions")))
    used = used or ", ".join([last["capability"], *native])  # older rows do not have it
    return paragraph(
        f"Model `{last['model']}`, {last['processor']} ({used}), "
        f"{plural(last['threads'], 'thread')}, {when}, commit {commits}, torch {last['torch']}, transformers "
        f"{last['transformers']}."
    )
