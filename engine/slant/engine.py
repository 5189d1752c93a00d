"""Engine: texts in, scores out.

The way of a text: ``Prompt.encode`` makes tokens of it, ``Runner.run`` sorts a window of token sequences into static
batches and computes five logits for each, and the engine puts the answers back in the order of the texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch

from slant.artifact import self_test as probe
from slant.artifact.certificate import PromptRecord, certified_margin
from slant.batching.batches import Ids, Result
from slant.model.weights import Weights
from slant.prompt.prompt import EncodedText, Prompt
from slant.runtime.classifier import Classifier
from slant.runtime.execution import graph_shapes
from slant.runtime.layerwise import LayerwiseRunner
from slant.runtime.placement import demand, place, read_costs
from slant.runtime.runner import Runner
from slant.runtime.tiers import Demand, Tier, choose, memory_limit
from slant.runtime.warmup import compile_kernels
from slant.scores import Score, Scores

Progress = Callable[[int, int], None]


class Executor(Protocol):
    """What answers for token sequences: the runner, or one that holds a layer at a time."""

    @property
    def device(self) -> torch.device: ...
    def run(self, sequences: Sequence[Ids]) -> Iterator[Result]: ...


class Engine:
    """A loaded classifier. ``Engine.load`` makes one; ``score`` and ``stream`` use it.

    ``labels`` are the label names in class order, ``tier`` says where the weights are. One engine serves one thread at
    a time.
    """

    def __init__(
        self,
        prompt: Prompt,
        runner: Executor,
        stable_margin: float | None = None,
        tier: Tier | None = None,
        demand: Demand | None = None,
    ) -> None:
        self.prompt, self.runner, self.stable_margin = prompt, runner, stable_margin
        self.tier, self._demand = tier, demand
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
        memory: str | int | None = "auto",
        deterministic: bool = False,
        costs: str | Path | None = None,
        max_seconds: float | None = None,
        threads: int | None = None,
        max_flip_rate: float | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Engine:
        """Load a checkpoint or a quantized artifact, a folder or hub id.

        weights ... token_budget: see ``Classifier.open``.
        memory: what weights and batches may take on the device: bytes, a size like "4GB", or "auto": what a GPU has
        free, no limit on a CPU. The fastest of ``slant.runtime`` that fits is taken; the libraries' own memory, some
        0.5 GB on a GPU, comes on top.
        deterministic: a text's scores are the same bits whatever else is in the call. Batches get a fixed number of
        rows, so that a call of few texts computes as much as one of many: give a small token_budget with it.
        costs: a table of measured batch times by which batches are planned; by default a formula for the device.
        max_seconds: a deadline: no batch of several texts is planned that takes longer by the costs. The streamed tier,
        which answers a group of batches at once, has none.
        threads: CPU threads of the whole process (torch's setting); unchanged if None.
        max_flip_rate: refuse a model without a certificate, or with one that measured a larger share of label flips.
        progress: called with (blocks loaded, blocks in all).

        An artifact's known answers are asked for before this returns. Raises SlantError as ``Classifier.open`` does,
        and if no way fits the memory.
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
        prompt, source, where = classifier.prompt, classifier.source, classifier.device
        stable_margin = certified_margin(source.certificate, source.folder, PromptRecord.of(prompt), max_flip_rate)
        needs = demand(classifier, max_tokens)
        tier = choose(needs, memory_limit(memory, where))
        runner = place(
            classifier,
            tier,
            max_tokens=max_tokens,
            costs=read_costs(costs, classifier),
            deterministic=deterministic,
            max_seconds=max_seconds,
            progress=progress,
        )
        engine = cls(prompt, runner, stable_margin, tier, replace(needs, token_budget=tier.token_budget))
        if source.probe is not None and probe.applies(probe.parse(source.probe), prompt):
            probe.check(source.probe, engine.score(source.probe["texts"]), classifier.dtype)
        return engine

    @classmethod
    def layerwise(
        cls, model: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None, **options: Any
    ) -> Engine:
        """An engine whose every call reads the checkpoint once, layer by layer: give it all texts at once.

        The options are those of ``Classifier.open``, and with the same ones the scores are bit-identical to those of
        ``load``. progress: called with (batches through a block, that of all blocks), in each call.
        """
        classifier = Classifier.open(model, **options)
        runner = LayerwiseRunner.reading(
            Weights(classifier.source, classifier.dtype, classifier.device, int8=classifier.int8),
            classifier.head,
            classifier.prompt.prefix_ids,
            max_tokens=classifier.prompt.max_tokens,
            token_budget=classifier.token_budget,
            costs=read_costs(None, classifier),
            progress=progress,
        )
        return cls(classifier.prompt, runner)

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
        self,
        texts: Iterable[object],
        *,
        window: int = 1024,
        progress: Progress = lambda texts, tokens: None,
        overlap: bool | None = None,
    ) -> Iterator[Score]:
        """Score any number of texts in constant memory, lazily and in their order.

        ``window`` texts are read ahead and sorted by length: a larger one pads less and answers later. ``progress`` is
        called after each batch with the texts it answered and their tokens, before a window's first answer is given.
        overlap: tokenize one window and compute another in threads of their own while the caller has a third; by
        default on a GPU, which waits otherwise. ``texts`` is read by the caller's thread in any case.
        """
        if window < 1:
            raise ValueError(f"the window must hold at least one text, not {window}.")
        texts = iter(texts)
        windows = iter(lambda: list(islice(texts, window)), [])
        if overlap or (overlap is None and self.runner.device.type == "cuda"):
            yield from self._overlapped(windows, progress)
        else:
            for chunk in windows:
                yield from self._score(chunk, progress)

    def _overlapped(self, windows: Iterator[list[object]], progress: Progress) -> Iterator[Score]:
        pending: deque[Future[list[Score]]] = deque()
        with ThreadPoolExecutor(1) as tokenizing, ThreadPoolExecutor(1) as scoring:
            try:
                for chunk in windows:
                    encoded = tokenizing.submit(self.prompt.encode, chunk)
                    pending.append(scoring.submit(self._score_encoded, encoded, progress))
                    if len(pending) > 1:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def warmup(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Do once what the first texts would wait for.

        On a GPU every kernel that a batch can need is compiled, or read from Triton's cache (``progress`` counts them),
        and graphs of small batches are captured: ``slant_kernels.cross.no_compilation`` holds from then on. Then one
        small batch is run, for thread pools and first-touched memory.
        """
        if self._demand is not None and self.runner.device.type == "cuda":
            packed = self.tier is not None and self.tier.packed and self._demand.recipe is not None
            compile_kernels(self._demand, packed=packed, progress=progress)
            if isinstance(self.runner, Runner):
                self.runner.record(graph_shapes(self._demand.max_tokens - self._demand.prefix_tokens))
        self._score(["warm-up"])

    def _score(self, texts: list[object], progress: Progress = lambda texts, tokens: None) -> list[Score]:
        return self._answers(self.prompt.encode(texts), progress)

    def _score_encoded(self, encoded: Future[list[EncodedText]], progress: Progress) -> list[Score]:
        return self._answers(encoded.result(), progress)

    def _answers(self, encoded: list[EncodedText], progress: Progress) -> list[Score]:
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
