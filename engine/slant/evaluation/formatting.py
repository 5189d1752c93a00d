"""How figures are written, alike on the terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

Form = Callable[[float], str]

BEGINNING = 280  # characters of a text


percent, four, signed = "{:.2%}".format, "{:.4f}".format, "{:+.4f}".format


def number(value: float) -> str:
    """Four decimals, or two digits and an exponent where those would hide it."""
    return f"{value:.4f}" if value == 0 or value >= 0.001 else f"{value:.1e}"


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:+.2f}"


# Name, key, and how the metric and its difference are written. Those after the fourth need probabilities.
METRICS: tuple[tuple[str, str, Form, Form], ...] = (
    ("accuracy", "accuracy", percent, points),
    ("MAE, classes", "mae", four, signed),
    ("kappa, quadratic", "quadratic_kappa", four, signed),
    ("macro-F1", "macro_f1", four, signed),
    ("ECE", "ece", four, signed),
    ("Brier", "brier", four, signed),
    ("NLL, nats", "nll", four, signed),
)


def interval(form: Form, value: float, low: float | None, high: float | None) -> str:
    """A figure with its confidence interval, if it has one."""
    return form(value) if low is None or high is None else f"{form(value)} [{form(low)}, {form(high)}]"


def beginning(text: object, width: int = BEGINNING) -> str:
    """The beginning of a text on one line."""
    line = " ".join(str(text)[: 4 * width].split())
    return line if len(line) <= width else line[: width - 1] + "…"


def rows_of(some: int, whole: int, what: str = "rows") -> str:
    return f"{some:,} of {whole:,} {what} ({some / whole:.1%})"


def terminal_table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]], left: int = 1, **options: Any) -> Table:
    """A table with rich's options; all but the first ``left`` columns are numbers."""
    columns = (Column(head, justify="left" if i < left else "right") for i, head in enumerate(heads))
    table = Table(*columns, **options)
    for row in rows:
        table.add_row(*row)
    return table
