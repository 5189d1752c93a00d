"""The parts of a report page: no script, nothing fetched, light and dark.

Arguments whose name ends in html, and ``Html``, are put in as they are, all others escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from slant.artifact.drift_record import Matrix
from slant.evaluation.charts import Series, heatmap, reliability
from slant.evaluation.formatting import number

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class Html(str):
    """A table cell that is markup already."""


def document(kind: str, title: str, head_html: str, body_html: Iterable[str], facts: Mapping[str, str]) -> str:
    """The whole page: ``kind`` and ``title`` name it, ``head_html`` follows the title, ``facts`` end it."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(kind)}: {escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><header><p class=kicker>{escape(kind)}</p><h1>{escape(title)}</h1>{head_html}</header>"
        f"{''.join(body_html)}<footer><dl>{items}</dl></footer></main></body></html>\n"
    )


def section(title: str, *html: str, note_html: str = "") -> str:
    intro = f"<p class=note>{note_html}</p>" if note_html else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{''.join(html)}</section>"


def notes(*sentences: str) -> str:
    return "".join(f"<p class=note>{escape(sentence)}</p>" for sentence in sentences if sentence)


def legend(*entries: tuple[str, str]) -> str:
    """Of (class of the colour, name) each."""
    keys = "".join(f'<span class=key><i class="{kind}"></i>{escape(name)}</span> ' for kind, name in entries)
    return f"<br>{keys}"


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Of (name, value, note) each."""
    tile = "<div class=tile><p>{}</p><strong>{}</strong><p>{}</p></div>"
    return f"<section class=tiles>{''.join(tile.format(*map(escape, entry)) for entry in entries)}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] | None = None) -> str:
    """``numeric`` columns are aligned to the right; by default all but the first."""
    right = set(range(1, len(head)) if numeric is None else numeric)

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = [cell if isinstance(cell, Html) else escape(cell) for cell in cells]
        kinds = [" class=num" if i in right else "" for i in range(len(head))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, shown, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"


def confusions(labels: Sequence[str], shown: Iterable[tuple[Matrix, str, str]]) -> str:
    """Confusion matrices side by side, each with the names of its rows and columns."""
    maps = [_figure(heatmap(counts, labels, a, b), f"{a} → {b}".capitalize()) for counts, a, b in shown]
    return f'<div class="grid{" roomy" if len(labels) > 6 else ""}">{"".join(maps)}</div>'


def calibration(note: str, diagrams: Sequence[tuple[str, Sequence[Series]]]) -> str:
    """A section of reliability diagrams, each with its title and its series."""
    figures = [
        _figure(reliability(series), title, " ".join(f"ECE {name}: {number(found.ece)}." for name, _, found in series))
        for title, series in diagrams
    ]
    keys = dict.fromkeys((colour, name) for _, series in diagrams for name, colour, _ in series)
    how = "Ten bins of equal width; a dot's area is its share of the rows; calibrated is the dashed line."
    key = legend(*keys) if len(keys) > 1 else ""
    return section("Calibration", f"<div class=grid>{''.join(figures)}</div>", note_html=f"{escape(note)} {how}{key}")


def _figure(svg_html: str, title: str, note: str = "") -> str:
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    return f"<figure>{caption}{svg_html}{notes(note)}</figure>"
