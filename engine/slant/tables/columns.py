"""Column names as people export them: some empty, some twice, and the one that is asked for spelled otherwise."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection, Sequence

from slant.errors import TableError
from slant.tables.notes import note

SHOWN = 20  # names listed in a message

log = logging.getLogger(__name__)


def listed(columns: Sequence[str]) -> str:
    """The names for a message."""
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in columns[:SHOWN]) + more


def missing(source: str, name: str, columns: Sequence[str], option: str = "", purpose: str = "") -> TableError:
    """The error for a table without the column ``name``, which a command's ``option`` may choose."""
    advice = f"; choose one with {option}" if option else ""
    if near := near_name(name, columns):
        advice = f"; did you mean {f'{option} {shlex.quote(near)}' if option else repr(near)}?"
    elif not columns:
        return TableError(f"{source} has no columns.")
    end = "" if advice.endswith("?") else "."
    return TableError(f"{source} has no column {name!r}{purpose}; its columns are: {listed(columns)}{advice}{end}")


def near_name(name: str, columns: Sequence[str]) -> str | None:
    """The column whose name differs by case, quotes or spaces around it only; None if there is none."""
    return next((column for column in columns if _plain(column) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.strip(" \t\r\n\xa0\ufeff\u200b\"'").casefold()


def tell_apart(source: str, columns: Sequence[str], needed: Collection[str]) -> list[str]:
    """The columns with a name of its own each: an empty one becomes column_3, the second of one name, name_2.

    What was changed is logged. Raises TableError if one of the ``needed`` columns is there twice.
    """
    if "" not in columns and len(set(columns)) == len(columns):
        return list(columns)
    for name in needed:
        if columns.count(name) > 1:
            raise TableError(f"{source} has two columns of the same name, {name!r}; rename one.")
    found, seen, taken = list[str](), Counter[str](), set(columns)
    for place, name in enumerate(columns, 1):
        seen[name] += 1
        own = name
        if not name or seen[name] > 1:
            begin, number = (name, seen[name]) if name else ("column", place)
            while (own := f"{begin}_{number}") in taken:
                number += 1
            taken.add(own)
        found.append(own)
    changed = [
        f"column {i} is {new!r}" for i, (old, new) in enumerate(zip(columns, found, strict=True), 1) if old != new
    ]
    note(log, "%s has empty or repeated column names; %s now.", source, listed(changed))
    return found
