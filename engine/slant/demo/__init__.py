"""The demo checkpoint and passages that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent


def passages() -> list[dict[str, str]]:
    """The bundled passages in order: ``text``, and the ``leaning`` its author meant, "far left" to "far right"."""
    return [json.loads(line) for line in (FOLDER / "passages.jsonl").read_text(encoding="utf-8").splitlines()]
