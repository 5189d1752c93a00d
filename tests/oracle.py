"""A folder's answers, from slant and from transformers' auto class, both in fp32: the truth is the second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

from classifier import TEXTS
from slant import Engine
from slant.evaluation.reference import last_logits
from slant.prompt.prompt import Prompt


def ours(folder: Path | str, **options: object) -> np.ndarray:
    """Logits fp32 ``[texts, answers]`` of the texts of ``classifier``."""
    engine = Engine.load(folder, **{"weights": "fp32", "device": "cpu", **options})
    return np.stack([score.logits for score in engine.score(TEXTS)])


def theirs(folder: Path, prompt_of: Path | None = None) -> np.ndarray:
    """The same from transformers; ``prompt_of``: the folder of tokenizer and slant.json, by default the same."""
    architecture = transformers.AutoConfig.from_pretrained(prompt_of or folder).architectures[0]
    kind = "AutoModelForImageTextToText" if "Conditional" in architecture else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    return answers(model, prompt_of or folder)


def answers(model: torch.nn.Module, prompt_of: Path) -> np.ndarray:
    prompt = Prompt.load(prompt_of)
    ids = [row.ids.tolist() for row in prompt.encode(TEXTS)]
    return last_logits(model.eval(), ids, prompt.answer_ids).numpy()


def agree(folder: Path, prompt_of: Path | None = None) -> None:
    """Assert that slant computes of a folder what transformers does."""
    np.testing.assert_allclose(ours(folder), theirs(folder, prompt_of), atol=1e-4, rtol=0)
