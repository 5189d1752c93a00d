"""The columns that scoring adds to a table, and their values in one row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from slant.errors import TableError
from slant.scores import Score
from slant.tables.rows import Chunk, as_text


@dataclass(frozen=True, slots=True)
class AddedColumns:
    """``schema`` has names and types; without ``certified`` no row is stable, and there is no column for it."""

    schema: pa.Schema
    certified: bool

    @classmethod
    def beside(cls, existing: list[str], labels: int, prefix: str, *, certified: bool) -> AddedColumns:
        """Those added to a table that has the ``existing`` ones, for a model of ``labels`` labels.

        Raises TableError for a prefix that is not valid Unicode or does not tell them apart.
        """
        if as_text(prefix) != prefix:
            raise TableError(f"the prefix {prefix!r} is not valid Unicode.")
        fields = [("label", pa.int64()), ("label_name", pa.string()), ("expected", pa.float32())]
        fields += [(f"p{i}", pa.float32()) for i in range(labels)]
        fields += [("margin", pa.float32()), *([("stable", pa.bool_())] if certified else [])]
        fields += [("tokens", pa.int64()), ("truncated", pa.bool_()), ("special_tokens", pa.int64())]
        fields += [("error", pa.string())]
        if clash := [prefix + name for name, _ in fields if prefix + name in existing]:
            raise TableError(
                f"the input already has a column {clash[0]!r}; name the added columns apart with --prefix."
            )
        return cls(pa.schema([(prefix + name, kind) for name, kind in fields]), certified)

    def values(self, score: Score) -> list[object]:
        """The values of one row."""
        if score.error is not None:
            return [None] * (len(self.schema) - 1) + [score.error]
        figures = map(_shortest, (np.float32(score.expected), *score.probabilities, np.float32(score.margin)))
        stable = [score.stable] if self.certified else []
        counts = (score.tokens, score.truncated, score.special_tokens)
        return [score.label, score.label_name, *figures, *stable, *counts, None]


def without_lost_values(chunk: Chunk, known: set[str] | None, added: set[str]) -> Chunk:
    """The chunk, in which a row has an error instead of a value that the output has no place for.

    Only JSON Lines brings such a value: under the name of an added column, or, if the output has ``known`` columns
    only, under a key that the first chunk did not have.
    """
    rows = chunk.rows if isinstance(chunk.rows, list) else []
    for i, row in enumerate(rows):
        if not (lost := row.keys() & added if known is None else row.keys() - known):
            continue
        clash = "name the added columns apart with --prefix" if lost & added else ""
        late = "the first rows do not have such a key, so write jsonl to keep it" if known is not None else ""
        advice = "; ".join(filter(None, (late, clash)))
        error = f"Not kept: {', '.join(map(repr, sorted(lost)))}; {advice}."
        rows[i] = {key: value for key, value in row.items() if key not in lost}
        chunk.texts[i], chunk.errors[i] = None, f"{chunk.errors[i]} {error}" if chunk.errors[i] else error
    return chunk


def _shortest(value: np.float32) -> float | None:
    """The float that prints with as many digits as a float32 needs: 0.1, not 0.10000000149011612."""
    return float(str(value)) if math.isfinite(value) else None
