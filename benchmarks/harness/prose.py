"""Figures as sentences: numbers with three digits, wrapped paragraphs, lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable


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
