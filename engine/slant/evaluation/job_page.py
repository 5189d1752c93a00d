"""The page of a bulk job: what was scored, what came out, what went wrong and how fast it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import pairwise

from slant import __version__
from slant.evaluation import markup
from slant.evaluation.charts import curve, horizontal
from slant.evaluation.formatting import four, percent
from slant.tables.summary import OTHERS, Summary

MOST_GROUPS = 30  # bars of a chart
MOST_PERIODS = 60  # points on a date axis
MOST_PROBLEMS = 20

By = Mapping[str, Mapping[str, float]]  # rows, and the sum of their expected scores, by value


def job_page(
    summary: Summary,
    title: str,
    labels: Sequence[str],
    *,
    group_column: str | None = None,
    date_column: str | None = None,
) -> str:
    """The HTML page of a finished job; ``labels`` are the names in class order."""
    figures = summary.figures
    rows = max(figures.get("rows", 0), 1)
    answered = max(figures.get("rows", 0) - figures.get("errors", 0), 1)
    highest = max(len(labels) - 1, 1)

    def share(name: str) -> tuple[str, str]:
        return f"{figures.get(name, 0):,}", f"{percent(figures.get(name, 0) / rows)} of the rows"

    tiles = [
        ("Rows", f"{figures.get('rows', 0):,}", f"{figures.get('tokens', 0):,} tokens scored"),
        ("Mean expected score", four(figures.get("expected", 0.0) / answered), f"from 0 to {highest}"),
        *((name.capitalize(), *share(name)) for name in ("errors", "truncated", "unstable", "duplicates", "stored")),
        ("Texts a second", f"{summary.texts_per_second:,.0f}", f"{summary.tokens_per_second:,.0f} tokens, last run"),
    ]

    def counted(found: Mapping[str, int], names: Sequence[str]) -> list[tuple[str, float, str]]:
        return [(n, found.get(n, 0), f"{found.get(n, 0):,} ({percent(found.get(n, 0) / answered)})") for n in names]

    def body() -> Iterator[str]:
        yield markup.tiles(tiles)
        if summary.problems:
            more = len(summary.problems) - MOST_PROBLEMS
            told = [*summary.problems[:MOST_PROBLEMS], f"And {more:,} more." if more > 0 else ""]
            yield markup.section("Inputs that could not be read whole", markup.notes(*told))
        yield markup.section("Labels", horizontal(counted(figures.get("labels", {}), labels), "rows by label"))
        if group_column is not None:
            yield _groups(figures.get("groups", {}), group_column, highest)
        if date_column is not None:
            yield _dates(figures.get("dates", {}), date_column)
        lengths = figures.get("lengths", {})
        bars = counted(lengths, sorted(lengths, key=int))
        shown = [(f"up to {int(name):,}", value, note) for name, value, note in bars]
        note = "Tokens of the prompt, after truncation."
        yield markup.section("Lengths", horizontal(shown, "rows by tokens of the prompt"), note_html=note)
        if len(summary.rates) > 1:
            yield _throughput(summary.rates)

    facts = {"slant": __version__, "seconds of the last run": f"{summary.seconds:,.1f}"}
    return markup.document("Bulk job", title, "", body(), facts)


def _groups(groups: By, column: str, highest: int) -> str:
    largest = sorted(groups, key=lambda name: (name == OTHERS, -groups[name]["rows"], name))
    bars = []
    for name in largest[:MOST_GROUPS]:
        rows, mean = groups[name]["rows"], groups[name]["expected"] / groups[name]["rows"]
        bars.append((name, mean, f"{four(mean)}, {rows:,} rows"))
    more = f" The {MOST_GROUPS} largest of {len(groups):,}." if len(groups) > MOST_GROUPS else ""
    return markup.section(
        f"Expected score by {column}",
        horizontal(bars, f"mean expected score by {column}", full=highest),
        markup.notes(f"Mean over the rows with an answer; a whole bar is {highest}.{more}"),
    )


def _dates(days: By, column: str) -> str:
    """By day, month or year, whichever the page has room for."""
    known = {day: of for day, of in days.items() if day}
    title, unknown = f"Expected score over {column}", days.get("", {}).get("rows", 0)
    missing = f"{unknown:,} rows have no date such as 2024-05-31 there." if unknown else ""
    if not known:
        return markup.section(title, markup.notes(missing or "There are no rows."))
    for size in (10, 7, 4):
        periods: dict[str, dict[str, float]] = {}
        for day, of in sorted(known.items()):
            held = periods.setdefault(day[:size], {"rows": 0, "expected": 0.0})
            held["rows"] += of["rows"]
            held["expected"] += of["expected"]
        if len(periods) <= MOST_PERIODS:
            break
    points: list[tuple[float, float, str]] = []
    for name, found in periods.items():
        start = date.fromisoformat(name + "-01-01"[len(name) - 4 :])
        points.append((start.toordinal(), found["expected"] / found["rows"], name))
    return markup.section(title, curve(points, column, "mean expected score"), markup.notes(missing))


def _throughput(rates: Sequence[tuple[float, int, int]]) -> str:
    points: list[tuple[float, float, str]] = []
    for (begin, texts, _), (end, more, _) in pairwise(rates):
        if end > begin:
            points.append((end, (more - texts) / (end - begin), f"{end:,.0f}"))
    if not points:
        return ""
    return markup.section("Throughput of the last run", curve(points, "seconds", "texts a second"))
