"""Engine: texts in, scores out.

The way of a text: ``Prompt.encode`` makes tokens of it, ``Runner.run`` sorts a window of token sequences into static
batches and computes five logits for each, and the engine puts the answers back in the order of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import torch

from slant import probe
from slant.batches import Ids, Result
from slant.classifier import Classifier
from slant.drift.certificate import certified_margin
from slant.model import Model
from slant.prompt import Prompt
from slant.runner import Runner
from slant.scores import Score, Scores
from slant.weights import Weights

Progress = Callable[[int, int], None]


class Executor(Protocol):
    """What answers for token sequences: the runner, or one that holds a layer at a time."""

    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]: ...


class Engine:
    """A loaded classifier. ``Engine.load`` makes one; ``score`` and ``stream`` use it.

    ``labels`` are the label names in class order. One engine serves one thread at a time.
    """

    def __init__(self, prompt: Prompt, runner: Executor, stable_margin: float | None = None) -> None:
        self.prompt, self.runner, self.stable_margin = prompt, runner, stable_margin
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
        max_flip_rate: float | None = None,
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
        max_flip_rate: refuse a model without a certificate, or with one that measured a larger share of label flips.
        progress: called with (blocks loaded, blocks in all).

        An artifact's known answers are asked for before this returns. Raises SlantError: CheckpointError if the
        checkpoint does not fit, PromptError if the prompt does not.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        classifier = Classifier.open(
            model,
            weights=weights,
            device=device,
            template=template,
            labels=labels,
            max_tokens=max_tokens,
            truncation=truncation,
            token_budget=token_budget,
        )
        prompt, source = classifier.prompt, classifier.source
        stable_margin = certified_margin(source, prompt, max_flip_rate)
        network = Model(Weights(source, classifier.dtype, classifier.device), max_tokens, progress)
        runner = Runner(
            network, classifier.head, prompt.prefix_ids, max_tokens=max_tokens, token_budget=classifier.token_budget
        )
        engine = cls(prompt, runner, stable_margin)
        if source.probe is not None and probe.applies(probe.parse(source.probe), prompt):
            probe.check(source.probe, engine.score(source.probe["texts"]), classifier.dtype)
        return engine

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
        return Score.of(
            logits,
            probabilities,
            self.labels,
            tokens=len(ids),
            dropped=dropped,
            stable_margin=self.stable_margin,
        )
