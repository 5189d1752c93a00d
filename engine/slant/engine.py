"""Engine: texts in, scores out.

The request flow: ``Prompt.encode`` makes tokens of a text, the runner sorts a window of token sequences into static
batches and computes the answers' logits for each, and the engine puts the scores back in the order of the texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, overload

import numpy as np

from slant.artifact.coverage import Coverage, coverage
from slant.errors import OptionError
from slant.inputs import texts_of
from slant.options import LoadOptions, check_function, check_model, shown, whole_number
from slant.prompt.prompt import EncodedText, Prompt
from slant.runtime.classifier import Classifier
from slant.runtime.execution import Executor
from slant.runtime.free_memory import memory_limit
from slant.runtime.identity import identity, model_files
from slant.runtime.load import load_runner, offloaded_to_disk
from slant.runtime.memory import MemoryRequest, Tier, choose, described
from slant.runtime.own_thread import OwnThread, Progress
from slant.runtime.resolved import ResolvedOptions, use_threads
from slant.runtime.runner import Runner
from slant.scores import Score, Scores


class Engine:
    """A loaded classifier. ``Engine.load`` makes one; ``score`` and ``stream`` use it.

    ``labels`` are the label names in class order, ``options`` what really runs, ``tier`` where the weights are
    and ``request`` what the tier was chosen for; ``description`` says it in a line.
    ``coverage`` says whether a certificate covers this engine's scores; beyond its ``stable_margin`` they are stable.
    It computes in a thread of its own. Any number of threads may use it at once; their batches take turns.
    """

    def __init__(
        self,
        prompt: Prompt,
        runner: Executor,
        options: ResolvedOptions,
        coverage: Coverage | None = None,
        tier: Tier | None = None,
        request: MemoryRequest | None = None,
        thread: OwnThread | None = None,
        files: Sequence[Path] = (),
        reason: str = "",
    ) -> None:
        self.prompt, self.runner, self.options = prompt, runner, options
        self.coverage = coverage or Coverage("the model was loaded without a certificate")
        self.stable_margin = self.coverage.stable_margin
        self.tier, self.request = tier, request
        self.labels = prompt.label_names
        self._files = tuple(files)
        self.description = described(options, tier, reason)
        self._thread = thread or OwnThread()
        self._thread.forkable = runner.device.type == "cpu"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} objects are not copied or pickled, being as large as the model; "
            "a process that is forked off may use the engine it inherits, any other must call Engine.load itself."
        )

    @classmethod
    def load(
        cls,
        model: str | Path,
        options: LoadOptions | None = None,
        *,
        progress: Progress = lambda done, total: None,
        **fields: Any,
    ) -> Engine:
        """Load a checkpoint or a quantized artifact, a folder or hub id.

        options: see ``LoadOptions``; its fields can be given as keywords instead, as in ``weights="int8"``.
        progress: called with (blocks loaded, blocks in all).

        An artifact's self-test is run before this returns. Raises SlantError if an option, the checkpoint or the prompt
        does not fit, if no memory tier does, or if the model is not certified as ``max_flip_rate`` asks.
        """
        options = LoadOptions.of(options, fields)
        check_model(model)
        check_function("progress", progress, "done, total")
        with OwnThread(use_threads(options.threads)).ended_by_failure() as thread:
            return thread.report(lambda report: cls._load(model, options, report, thread), progress)

    @classmethod
    def _load(cls, model: str | Path, options: LoadOptions, progress: Progress, thread: OwnThread) -> Engine:
        classifier = Classifier.open(model, options, whole=True)
        source, prompt, resolved = classifier.source, classifier.prompt, classifier.options
        certified = coverage(
            source.certificate, resolved.arithmetic(), prompt.template_sha256, tuple(prompt.labels), str(source.folder)
        )
        if options.max_flip_rate is not None:
            certified.require(options.max_flip_rate)
        request = classifier.memory_request()
        tier = choose(request, *memory_limit(resolved))
        test, positions = None, resolved.max_tokens
        if source.self_test is not None:
            from slant.runtime.self_test import SelfTest

            test = SelfTest(classifier)
            positions = max(positions, test.tokens)
        runner = load_runner(classifier, tier, positions=positions, progress=progress)
        if test is not None:
            test.check(runner, positions)
        request = replace(request, token_budget=tier.token_budget)
        files = model_files(source)
        return cls(prompt, runner, resolved, certified, tier, request, thread, files, classifier.reason)

    @classmethod
    def offloaded(
        cls,
        model: str | Path,
        options: LoadOptions | None = None,
        *,
        progress: Progress = lambda done, total: None,
        **fields: Any,
    ) -> Engine:
        """An engine whose every call reads the checkpoint once, layer by layer: give it all texts at once.

        With the same options the scores are bit-identical to those of ``load``. progress: called with (batches through
        a block, that of all blocks), in each call and in the engine's thread.
        """
        options = LoadOptions.of(options, fields)
        check_model(model)
        check_function("progress", progress, "done, total")

        def load(thread: OwnThread) -> Engine:
            classifier = Classifier.open(model, options)
            runner = offloaded_to_disk(classifier, progress)
            files, reason = model_files(classifier.source), classifier.reason
            return cls(classifier.prompt, runner, classifier.options, thread=thread, files=files, reason=reason)

        with OwnThread(use_threads(options.threads)).ended_by_failure() as thread:
            return thread.call(lambda: load(thread))

    def identity(self) -> dict[str, object]:
        """All that decides a text's score, by name, short of rounding; the model's files are read for their hashes.

        The number of threads, the memory tier and what else is in a call move scores by rounding at most, and are left
        out.
        """
        return identity(self._files, self.prompt, self.options, self.stable_margin)

    @overload
    def score(self, texts: str) -> Score: ...  # type: ignore[overload-overlap]
    @overload
    def score(self, texts: Iterable[object]) -> Scores: ...
    def score(self, texts: str | Iterable[object]) -> Score | Scores:
        """Score one text, or any number of them at once.

        Any ordered iterable of texts will do, such as a list, a generator, or a column of numpy, pandas, pyarrow or
        datasets. What is wrong with one of them becomes that row's ``error``, also if the model answers NaN to all of
        them: ``model_failed`` tells that from a text at fault. Raises ValueError for a single text that
        cannot be scored, and TypeError for what holds no texts in an order.
        """
        if isinstance(texts, str):
            (score,) = self._score(self.prompt.encode([texts]))
            if score.error:
                raise ValueError(score.error)
            return score
        return Scores(self._score(self.prompt.encode(list(texts_of(texts)))), self.labels)

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
        window = whole_number("window", window)
        check_function("progress", progress, "texts, tokens")
        if not isinstance(overlap, bool | None):
            raise OptionError(f"overlap is {shown(overlap)}; give True, False or None.")
        rows = texts_of([texts] if isinstance(texts, str) else texts)
        windows = iter(lambda: list(islice(rows, window)), [])
        if overlap or (overlap is None and self.runner.device.type == "cuda"):
            return self._overlapped(windows, progress)
        return (score for chunk in windows for score in self._score(self.prompt.encode(chunk), progress))

    def _overlapped(self, windows: Iterator[list[object]], progress: Progress) -> Iterator[Score]:
        pending: deque[Future[list[Score]]] = deque()
        with ThreadPoolExecutor(1) as tokenizing, ThreadPoolExecutor(1) as scoring:
            try:
                for chunk in windows:
                    encoded = tokenizing.submit(self.prompt.encode, chunk)
                    pending.append(scoring.submit(lambda encoded: self._score(encoded.result(), progress), encoded))
                    if len(pending) > 1:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def warmup(self, progress: Progress = lambda done, total: None) -> None:
        """Do once what the first texts would wait for.

        On a GPU every kernel that a batch can need is compiled, or read from Triton's cache (``progress`` counts them),
        and graphs of small batches are captured: ``slant_kernels.cross.no_compilation`` holds from then on. Then one
        small batch is run, for thread pools and first-touched memory.
        """
        check_function("progress", progress, "done, total")
        if self.request is not None and self.runner.device.type == "cuda":
            self._thread.report(self._prepare, progress)
        self._score(self.prompt.encode(["warm-up"]))

    def _prepare(self, progress: Progress) -> None:
        from slant.runtime.graphs import graph_shapes
        from slant.runtime.warmup import compile_kernels

        assert self.request is not None
        quantized = self.tier is not None and self.tier.quantized and self.request.recipe is not None
        compile_kernels(self.request, quantized=quantized, progress=progress)
        if isinstance(self.runner, Runner):
            self.runner.record(graph_shapes(self.request.max_tokens - self.request.prefix_tokens))

    def _score(self, encoded: list[EncodedText], progress: Progress = lambda texts, tokens: None) -> list[Score]:
        good = [row for row, text in enumerate(encoded) if text.error is None]
        scores = [Score.failed(text.error or "", len(self.labels)) for text in encoded]
        for answers in self._thread.iterate(self.runner.run([encoded[row].ids for row in good])):
            rows = [good[index] for index in answers.rows]
            for row, logits, probabilities in zip(rows, answers.logits, answers.probabilities, strict=True):
                scores[row] = self._answer(encoded[row], logits, probabilities)
            answered = [scores[row] for row in rows if scores[row].error is None]
            progress(len(answered), sum(score.tokens for score in answered))
        return scores

    def _answer(self, text: EncodedText, logits: np.ndarray, probabilities: np.ndarray) -> Score:
        if not np.isfinite(logits).all():
            return Score.not_finite(len(self.labels))
        counts = {"tokens": len(text.ids), "dropped": text.tokens_dropped, "special_tokens": text.special_tokens}
        return Score.of(logits, probabilities, self.labels, **counts, stable_margin=self.stable_margin)
