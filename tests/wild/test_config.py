"""config.json with values of another kind or out of range: the same model as transformers', or the field is named."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

import classifier
import tiny
from slant import Engine
from slant.errors import SlantError
from slant.evaluation.reference import last_logits
from slant.prompt.prompt import Prompt

TEXTS = classifier.TEXTS[:2]
SHAPE = {"qwen3_5_text": "grouped", "qwen3_5": tiny.MULTIMODAL}


@cache
def checkpoint(shape: str) -> Path:
    """A tiny classifier of this shape, written once a process."""
    return classifier.write(Path(tempfile.mkdtemp(prefix="slant-config-")), shape)


def config(shape: str = "grouped") -> dict[str, Any]:
    """A new copy of the decoded config.json of ``checkpoint(shape)``."""
    raw: dict[str, Any] = json.loads((checkpoint(shape) / "config.json").read_bytes())
    return raw


def folder_with(content: bytes, shape: str, parent: Path) -> Path:
    """The checkpoint of this shape with another config.json."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    for path in checkpoint(shape).iterdir():
        if path.name != "config.json":
            os.link(path, folder / path.name)
    (folder / "config.json").write_bytes(content)
    return folder


def ours(folder: Path) -> torch.Tensor:
    """fp32 logits of ``TEXTS``; raises SlantError."""
    return torch.from_numpy(Engine.load(folder, device="cpu", weights="fp32").score(TEXTS).logits)


def theirs(folder: Path) -> torch.Tensor | str:
    """The same by transformers, as the class that ``architectures`` names or else as AutoModelForCausalLM, or why not.

    A checkpoint of which it fills in a tensor at random counts as not loaded.
    """
    names = json.loads((folder / "config.json").read_bytes()).get("architectures")
    kind = getattr(transformers, names[0] if names else "AutoModelForCausalLM")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            return f"{info}"
        prompt = Prompt.load(folder)
        sequences = [row.ids.tolist() for row in prompt.encode(TEXTS)]
        return last_logits(model.eval(), sequences, prompt.answer_ids)
    except Exception as error:  # whatever it raises for a config that it does not take
        return f"{type(error).__name__}: {error}"
    finally:
        transformers.logging.set_verbosity(verbosity)


def check_config(raw: Any, shape: str = "grouped") -> bool:
    """Assert that a decoded config.json over the weights of ``shape`` gives transformers' logits, or an error that
    names a field of it or a tensor. Returns whether it loaded."""
    content = json.dumps(raw).encode(errors="surrogatepass")
    with tempfile.TemporaryDirectory() as parent:
        folder = folder_with(content, shape, Path(parent))
        try:
            logits = ours(folder)
        except SlantError as error:
            if not names_a_field(str(error), raw):
                raise AssertionError(f"no field is named: {error}") from error
            return False
        # What the vision part and the dtype say is not read: the text model does not depend on it.
        same = {key: value for key, value in raw.items() if key not in ("vision_config", "dtype", "torch_dtype")}
        same |= {key: value for key, value in config(shape).items() if key == "vision_config"}
        reference = theirs(folder_with(json.dumps(same).encode(errors="surrogatepass"), shape, Path(parent)))
        assert not isinstance(reference, str), f"loaded, and transformers says {reference[:500]}\n{content[:3000]!r}"
        torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0, msg=lambda text: f"{text}\n{content!r}")
    return True


def names_a_field(message: str, raw: Any) -> bool:
    """Whether an error is one line that names config.json and a field of it, or a tensor."""
    names = {"model_type", "architectures", *fields(raw), *fields(config()), *fields(config(tiny.MULTIMODAL))}
    named = "config.json" in message and (not isinstance(raw, dict) or any(name and name in message for name in names))
    # A max_position_embeddings that no prompt fits into bounds max_tokens.
    known = named or ".weight" in message or "max_tokens" in message
    return "\n" not in message and len(message) < 1000 and known


def fields(raw: Any) -> set[str]:
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return set(raw if isinstance(raw, dict) else ()).union(*map(fields, parts))


def test_what_is_unchanged_is_scored_as_by_transformers():
    for shape in SHAPE.values():
        assert check_config(config(shape), shape)
