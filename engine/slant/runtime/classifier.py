"""Everything of a classifier but its blocks: source, prompt, head, device and dtype, checked to belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from slant.artifact.recipe import NAMED
from slant.errors import CheckpointError, SlantError
from slant.model.checkpoint import EMBEDDING
from slant.model.source import Source, open_model
from slant.prompt.prompt import Prompt
from slant.runtime.execution import Head
from slant_kernels import cpu
from slant_kernels.int8 import can_multiply_int8

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
INT8 = "int8"
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True)
class Classifier:
    """A checked classifier that still lacks the weights of its blocks, which ``source`` gives."""

    source: Source
    prompt: Prompt
    head: Head
    device: torch.device
    dtype: torch.dtype
    token_budget: int
    int8: bool = False

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        weights: str = "auto",
        device: str = "auto",
        template: str | None = None,
        labels: Mapping[str, str] | None = None,
        max_tokens: int = 8192,
        truncation: str = "head",
        token_budget: int | None = None,
    ) -> Classifier:
        """Read all but the blocks.

        weights: "bf16", "fp32", or "auto": bf16 where the device multiplies it natively, fp32 elsewhere; an artifact is
        computed in it too. "hqq8", "hqq4", "hqq3" or "hqq2" quantizes a checkpoint while it loads. "int8" multiplies
        8-bit weights by 8-bit activations, on CPUs that have VNNI: the fastest there, and the one that drifts.
        device: "cpu", "cuda", "cuda:1" ..., or "auto": cuda if there is one.
        template, labels: the prompt around "{article}" and {answer: name}; by default the folder's
        ``slant.json``, else the built-in ones.
        max_tokens, truncation: the longest prompt in tokens, and what happens to a longer one ("head" keeps the
        article's beginning, "middle" its beginning and end, "error" makes it that row's error).
        token_budget: computed tokens a batch, padding included; the default suits the device.

        Raises SlantError: CheckpointError if the checkpoint does not fit, PromptError if the prompt does not.
        """
        where = choose_device(device)
        dtype = choose_dtype(weights, where)
        budget = TOKEN_BUDGETS[where.type] if token_budget is None else token_budget
        if budget < 1:
            raise SlantError(f"token_budget is {budget}; give at least 1.")
        source = open_model(model, weights, where)
        prompt = Prompt.load(
            source.folder, template=template, labels=labels, max_tokens=max_tokens, truncation=truncation
        )
        check_fit(source, prompt)
        head = Head(
            norm=source.read("norm.weight").to(where, torch.float32),
            rows=source.head_rows(prompt.answer_ids).to(where, torch.float32),
            eps=source.config.rms_norm_eps,
        )
        return cls(source, prompt, head, where, dtype, budget, int8=weights == INT8)


def choose_device(name: str) -> torch.device:
    """The torch device for "auto" or a torch name; raises SlantError if there is none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SlantError(f"{name!r} is no device; use auto, cpu or cuda.") from None
    if device.type not in TOKEN_BUDGETS:
        raise SlantError(f"slant runs on cpu and cuda, not on {device.type}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SlantError("no CUDA device is available; use device=cpu.")
    return device


def choose_dtype(weights: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in for the name of weights on a device; raises SlantError for an unknown one."""
    if weights == INT8 and not can_multiply_int8(device):
        raise SlantError(f"weights=int8 needs a CPU with VNNI, and this is {device.type}; use hqq8 or auto.")
    if weights in ("auto", INT8, *NAMED):
        weights = "bf16" if device.type == "cuda" or cpu.multiplies_bf16() else "fp32"
    if weights not in DTYPES:
        raise SlantError(f"weights={weights!r} is unknown; use auto or one of {', '.join((*DTYPES, INT8, *NAMED))}.")
    return DTYPES[weights]


def check_fit(checkpoint: Source, prompt: Prompt) -> None:
    """Raise SlantError unless tokenizer, prompt and model belong together."""
    known, rows = prompt.tokenizer.get_vocab_size(), checkpoint.tensors[EMBEDDING].shape[0]
    if known > rows:
        raise CheckpointError(f"the tokenizer knows {known} tokens and the embedding {rows}: not of the same model.")
    limit = checkpoint.config.max_position_embeddings
    if prompt.max_tokens > limit:
        raise SlantError(f"max_tokens is {prompt.max_tokens}, but the model was built for {limit}; use that or less.")
