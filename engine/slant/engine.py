"""Engine: texts in, scores out.

The way of a text: ``Prompt.encode`` makes tokens of it, ``Runner.run`` sorts a window of token sequences into static
batches and computes five logits for each, and the engine puts the answers back in the order of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch

from slant.checkpoint import EMBEDDING
from slant.errors import CheckpointError, SlantError
from slant.model import Model
from slant.prompt import Prompt
from slant.recipe import NAMED
from slant.runner import Head, Runner
from slant.scores import Score, Scores
from slant.source import Source, open_model

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Progress = Callable[[int, int], None]
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 16384}


class Engine:
    """A loaded classifier. ``Engine.load`` makes one; ``score`` and ``stream`` use it.

    ``labels`` are the label names in class order. One engine serves one thread at a time.
    """

    def __init__(self, prompt: Prompt, runner: Runner) -> None:
        self.prompt, self.runner = prompt, runner
        self.labels = prompt.label_names

    @classmethod
    def load(
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
        threads: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Engine:
        """Load a checkpoint or a quantized artifact, a folder or hub id.

        weights: "bf16", "fp32", or "auto": bf16 where the device multiplies it natively, fp32 elsewhere; an artifact is
        computed in it too. "hqq8", "hqq4", "hqq3" or "hqq2" quantizes a checkpoint while it loads.
        device: "cpu", "cuda", "cuda:1" ..., or "auto": cuda if there is one.
        template, labels: the prompt around "{article}" and {answer: name}; by default the folder's
        ``slant.json``, else the built-in ones.
        max_tokens, truncation: the longest prompt in tokens, and what happens to a longer one ("head" keeps the
        article's beginning, "middle" its beginning and end, "error" makes it that row's error).
        token_budget: computed tokens a batch, padding included; the default suits the device.
        threads: CPU threads of the whole process (torch's setting); unchanged if None.
        progress: called with (blocks loaded, blocks in all).

        Raises SlantError: CheckpointError if the checkpoint does not fit, PromptError if the prompt does not.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        where = choose_device(device)
        dtype = choose_dtype(weights, where)
        budget = TOKEN_BUDGETS[where.type] if token_budget is None else token_budget
        if budget < 1:
            raise SlantError(f"token_budget is {budget}; give at least 1.")
        checkpoint = open_model(model, weights, where)
        prompt = Prompt.load(
            checkpoint.folder, template=template, labels=labels, max_tokens=max_tokens, truncation=truncation
        )
        check_fit(checkpoint, prompt)
        network = Model(checkpoint, dtype, where, max_tokens, progress)
        head = Head(
            norm=checkpoint.read("norm.weight").to(where, torch.float32),
            rows=checkpoint.head_rows(prompt.answer_ids).to(where, torch.float32),
            eps=checkpoint.config.rms_norm_eps,
        )
        return cls(prompt, Runner(network, head, prompt.prefix_ids, max_tokens=max_tokens, token_budget=budget))

    @overload
    def score(self, texts: str) -> Score: ...  # type: ignore[overload-overlap]
    @overload
    def score(self, texts: Iterable[object]) -> Scores: ...
    def score(self, texts: str | Iterable[object]) -> Score | Scores:
        """Score one text, or any number of them at once.

        In a list, what is wrong with one text becomes that row's ``error``. Raises ValueError for a single text that
        cannot be scored.
        """
        if isinstance(texts, str):
            (score,) = self._score([texts])
            if score.error:
                raise ValueError(score.error)
            return score
        return Scores(self._score(list(texts)), self.labels)

    def stream(
        self, texts: Iterable[object], *, window: int = 1024, progress: Progress = lambda texts, tokens: None
    ) -> Iterator[Score]:
        """Score any number of texts in constant memory, lazily and in their order.

        ``window`` texts are read ahead and sorted by length: a larger one pads less and answers later. ``progress`` is
        called after each batch with the texts it answered and their tokens, before a window's first answer is given.
        """
        if window < 1:
            raise ValueError(f"the window must hold at least one text, not {window}.")
        texts = iter(texts)
        while chunk := list(islice(texts, window)):
            yield from self._score(chunk, progress)

    def warmup(self) -> None:
        """Run one small batch, so that the first real one does not pay for thread pools and first-touched memory."""
        self._score(["warm-up"])

    def _score(self, texts: list[object], progress: Progress = lambda texts, tokens: None) -> list[Score]:
        encoded = self.prompt.encode(texts)
        good = [row for row, text in enumerate(encoded) if text.error is None]
        scores = [Score.failed(text.error or "", len(self.labels)) for text in encoded]
        for result in self.runner.run([encoded[row].ids for row in good]):
            for index, logits, probabilities in zip(result.rows, result.logits, result.probabilities, strict=True):
                row = good[index]
                scores[row] = self._answer(encoded[row].ids, encoded[row].tokens_dropped, logits, probabilities)
            answered = [scores[good[index]] for index in result.rows if scores[good[index]].error is None]
            progress(len(answered), sum(score.tokens for score in answered))
        return scores

    def _answer(self, ids: np.ndarray, dropped: int, logits: np.ndarray, probabilities: np.ndarray) -> Score:
        if not np.isfinite(logits).all():
            return Score.failed("the model answered with NaN or infinity; check the checkpoint.", len(self.labels))
        return Score.of(logits, probabilities, self.labels, tokens=len(ids), dropped=dropped)


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
    if weights in ("auto", *NAMED):
        native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        weights = "bf16" if native else "fp32"
    if weights not in DTYPES:
        raise SlantError(f"weights={weights!r} is unknown; use auto or one of {', '.join((*DTYPES, *NAMED))}.")
    return DTYPES[weights]


def check_fit(checkpoint: Source, prompt: Prompt) -> None:
    """Raise SlantError unless tokenizer, prompt and model belong together."""
    known, rows = prompt.tokenizer.get_vocab_size(), checkpoint.tensors[EMBEDDING].shape[0]
    if known > rows:
        raise CheckpointError(f"the tokenizer knows {known} tokens and the embedding {rows}: not of the same model.")
    limit = checkpoint.config.max_position_embeddings
    if prompt.max_tokens > limit:
        raise SlantError(f"max_tokens is {prompt.max_tokens}, but the model was built for {limit}; use that or less.")
