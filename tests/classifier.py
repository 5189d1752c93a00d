"""A whole classifier of a few kilobytes: a tiny random checkpoint with a tokenizer of characters and a prompt."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import tiny

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
LABELS = {"0": "left", "1": "middle", "2": "right"}
TEMPLATE = "Text:\n{article}\nClass: "
TEXTS = ["One.", "A longer text, of some sentences. And another one.", "?! 123 {}", "z" * 150]


def write(folder: Path, shape: str = "grouped") -> Path:
    """Save it; the head of the shape "grouped" is its own, that of "tied" the embedding."""
    assert len(CHARACTERS) == tiny.VOCABULARY
    tiny.save(shape, folder)
    tokenizer = Tokenizer(models.WordLevel({char: id for id, char in enumerate(CHARACTERS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "slant.json").write_text(json.dumps({"template": TEMPLATE, "labels": LABELS}))
    return folder
