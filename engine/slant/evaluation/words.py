"""Figures in words, alike on the terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable

BEGINNING = 280  # characters of a text


def percent(share: float) -> str:
    return f"{share:.2%}"


def number(value: float) -> str:
    """Four decimals, or two digits and an exponent where those would hide it."""
    return f"{value:.4f}" if value == 0 or value >= 0.001 else f"{value:.1e}"


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:+.2f}"


def four(value: float) -> str:
    return f"{value:.4f}"


def signed(value: float) -> str:
    return f"{value:+.4f}"


def beginning(text: object, width: int = BEGINNING) -> str:
    """The beginning of a text on one line."""
    line = " ".join(str(text)[: 4 * width].split())
    return line if len(line) <= width else line[: width - 1] + "…"


def bracketed(form: Callable[[float], str], value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval, if it has one."""
    return form(value) if low is None or high is None else f"{form(value)} [{form(low)}, {form(high)}]"
