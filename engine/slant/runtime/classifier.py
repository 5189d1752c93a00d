"""A classifier without its blocks: configuration, prompt and head, checked to belong together.

The blocks are loaded later, where the memory tier wants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from slant.artifact import MANIFEST
from slant.errors import CheckpointError
from slant.model.source import Source, open_model
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.execution import Head
from slant.runtime.memory import MemoryRequest
from slant.runtime.resolved import ResolvedOptions, choose_device, resolve_options, use_threads
from slant.tensor_files import EMBEDDING


@dataclass(frozen=True)
class Classifier:
    """``source`` gives the weights of the blocks."""

    source: Source
    prompt: Prompt
    head: Head
    options: ResolvedOptions

    @classmethod
    def open(cls, model: str | Path, options: LoadOptions) -> Classifier:
        """Read all but the blocks, with the options' number of threads from here on.

        Raises SlantError: CheckpointError if the checkpoint does not fit, PromptError if the prompt does not.
        """
        use_threads(options.threads)
        source = open_model(model, options.weights, choose_device(options.device))
        resolved = resolve(source, options)
        prompt = Prompt.load(
            source.folders,
            template=options.template,
            labels=options.labels,
            max_tokens=resolved.max_tokens,
            truncation=resolved.truncation,
            special_tokens=options.special_tokens,
        )
        check_vocabulary(source, prompt)
        return cls(source, prompt, answer_head(source, prompt, resolved.device), resolved)

    def memory_request(self) -> MemoryRequest:
        """What decides the bytes of the memory tiers."""
        return MemoryRequest.of(self.source.config, self.source.recipe, self.prompt, self.options)


def resolve(source: Source, options: LoadOptions) -> ResolvedOptions:
    """What the options come to for a source."""
    limit = source.config.max_position_embeddings
    return resolve_options(options, max_positions=limit, is_artifact=(source.folder / MANIFEST).exists())


def answer_head(source: Source, prompt: Prompt, device: torch.device) -> Head:
    """The final norm and the head's rows of a prompt's answers."""
    return Head(
        norm=source.read("norm.weight").to(device, torch.float32),
        rows=source.head_rows(prompt.answer_ids).to(device, torch.float32),
        eps=source.config.rms_norm_eps,
    )


def check_vocabulary(source: Source, prompt: Prompt) -> None:
    """Raise CheckpointError unless tokenizer and model belong together."""
    known, rows = prompt.vocabulary_size, source.tensors[EMBEDDING].shape[0]
    if known > rows:
        raise CheckpointError(f"the tokenizer knows {known} tokens and the embedding {rows}: not of the same model.")
