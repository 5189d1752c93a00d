"""A classifier without its blocks: configuration, prompt and head, checked to belong together.

The blocks are loaded later, where the memory tier wants them.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slant.artifact import MANIFEST
from slant.errors import CheckpointError, SlantError
from slant.model.source import Source, open_model
from slant.model.weights import Weights
from slant.options import AUTO, LoadOptions
from slant.prompt.prompt import Prompt
from slant.runtime.execution import Head
from slant.runtime.free_memory import memory_limit
from slant.runtime.memory import MemoryRequest
from slant.runtime.resolved import ResolvedOptions, choose_device, resolve_options, use_threads
from slant.tensor_files import EMBEDDING


@dataclass(frozen=True)
class Classifier:
    """``source`` gives the weights of the blocks; ``embedding`` is there if it was read already.

    ``reason`` says why slant took these weights, if that was left to it.
    """

    source: Source
    prompt: Prompt
    head: Head
    options: ResolvedOptions
    embedding: Tensor | None = None
    reason: str = ""

    @classmethod
    def open(cls, model: str | Path, options: LoadOptions, *, whole: bool = False) -> Classifier:
        """Read all but the blocks, with the options' number of threads from here on.

        whole: all of it will be loaded, so that the embedding may be read here.
        Raises SlantError: CheckpointError if the checkpoint does not fit, PromptError if the prompt does not.
        """
        use_threads(options.threads)
        source = open_model(model, options.weights, choose_device(options.device))
        resolved = resolve(source, options)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(
                Prompt.load,
                source.folders,
                template=options.template,
                labels=options.labels,
                max_tokens=resolved.max_tokens,
                truncation=resolved.truncation,
                special_tokens=options.special_tokens,
            )
            embedding, failure = None, None
            try:
                embedding = _embedding(source, resolved) if whole else None
            except SlantError as error:
                failure = error
            prompt = loading.result()  # what is wrong with the prompt is told first
        if failure is not None:
            raise failure
        check_vocabulary(source, prompt)
        reason = ""
        if AUTO.get(options.weights):
            from slant.runtime.choice import decide

            choice = decide(source, prompt, options, resolve)
            source, resolved, reason = choice.source, choice.options, choice.reason
        return cls(source, prompt, answer_head(source, prompt, resolved.device), resolved, embedding, reason)

    def memory_request(self) -> MemoryRequest:
        """What decides the bytes of the memory tiers."""
        return MemoryRequest.of(self.source.config, self.source.recipe, self.prompt, self.options)


def _embedding(source: Source, options: ResolvedOptions) -> Tensor | None:
    """The embedding, which every tier of a CPU holds as it is; None elsewhere, and where memory may be too little: what
    is free must be counted, and a model refused, before any of it is read.

    A tokenizer of 250,000 tokens takes a second to load, in one core and with Python's lock; reading takes another core
    and does without the lock.
    """
    limit, _ = memory_limit(options)
    dense = sum(map(math.prod, source.config.shapes().values())) * options.storage.itemsize
    if options.device.type != "cpu" or (limit is not None and limit < 2 * dense):
        return None
    return Weights(source, options.storage, options.device).dense(EMBEDDING)


def resolve(source: Source, options: LoadOptions) -> ResolvedOptions:
    """What the options come to for a source."""
    limit, is_artifact = source.config.max_position_embeddings, (source.folder / MANIFEST).exists()
    return resolve_options(options, max_positions=limit, is_artifact=is_artifact, is_bf16=is_bf16(source))


def is_bf16(source: Source) -> bool:
    """Whether all matrices of the blocks and the embedding that are not quantized are bf16 in the files, unchanged."""
    recipe = source.recipe
    names = (name for name, shape in source.config.shapes().items() if len(shape) == 2)
    stored = (source.as_stored(name) for name in names if recipe is None or recipe.grid(name) is None)
    return all(info is not None and info.dtype == "BF16" for info in stored)


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
