"""The parts of a report page: no script, nothing from elsewhere, light and dark.

Arguments whose name ends in html are put in as they are, all others escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def document(title: str, html: Iterable[str]) -> str:
    """The whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(html)}</main></body></html>\n"
    )


def section(title: str, note_html: str, *html: str) -> str:
    intro = f"<p class=note>{note_html}</p>" if note_html else ""
    return f"<section><h2>{title}</h2>{intro}{''.join(html)}</section>"


def figure(svg_html: str, title: str = "", note: str = "") -> str:
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    return f"<figure>{caption}{svg_html}{f'<p class=note>{escape(note)}</p>' if note else ''}</figure>"


def legend(*entries: tuple[str, str]) -> str:
    """Of (class of the colour, name) each."""
    keys = "".join(f'<span class=key><i class="{kind}"></i>{escape(name)}</span> ' for kind, name in entries)
    return f"<br>{keys}"


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Of (name, value, note) each."""
    return (
        "<section class=tiles>"
        + "".join(
            f"<div class=tile><p>{escape(name)}</p><strong>{escape(value)}</strong><p>{escape(note)}</p></div>"
            for name, value, note in entries
        )
        + "</section>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """All but the first column are numbers, unless all are words."""
    kinds = ["" if words or i == 0 else " class=num" for i in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
