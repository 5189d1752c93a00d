"""What is measured of one loaded model: memory, latency, throughput, and where the time of a batch goes.

Each measure yields rows for the result file. Token ids are random, so tokenization is in no figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch

from gpu.device import DryRun, Limits, in_turn
from gpu.model_tiers import Loaded
from gpu.waterfall import waterfall
from harness.rows import Row, percentiles
from harness.workloads import PREFIX, mixture, prompts
from slant.batching.batches import Ids, StaticBatch
from slant.batching.costs import default_costs
from slant.model.config import ModelConfig
from slant.runtime.execution import Eager
from slant.runtime.graphs import GRAPH_TOKENS
from slant.runtime.runner import Runner


@dataclass(frozen=True)
class Scope:
    """How much is measured; the default is for the 4B shape on a data-centre GPU.

    ``requests_of`` and ``batches`` are (texts, tokens of each after the prefix); requests of up to ``graph_tokens`` are
    also replayed. ``texts`` and ``peer_texts`` are mixtures with a number of texts.
    """

    config: ModelConfig
    max_tokens: int = PREFIX + 8192
    token_budget: int = 16384
    requests_of: tuple[tuple[int, int], ...] = ((1, 16), (1, 128), (1, 1024), (8, 1024), (1, 8192))
    graph_tokens: int = GRAPH_TOKENS
    texts: tuple[tuple[str, int], ...] = (("posts", 64), ("posts", 512), ("speeches", 64))
    peer_texts: tuple[tuple[str, int], ...] = (("posts", 64), ("speeches", 16))
    short: int = 128  # tokens of the short texts that fill a batch
    batches: tuple[tuple[int, int], ...] = ((1, 128), (8, 1024), (1, 8192))
    rounds: int = 3
    requests: tuple[int, int] = (10, 100)
    seconds: float = 1.0  # of requests of one shape

    def mixtures(self, texts: Iterable[tuple[str, int]]) -> Iterator[tuple[str, list[Ids]]]:
        """Each mixture's name and prompts."""
        for name, count in texts:
            yield name, prompts(mixture(name, count, self.max_tokens), self.config.vocab_size)


@dataclass(frozen=True)
class Bench:
    """A device, the limits that were measured on it in this run, and what is asked."""

    device: DryRun
    limits: Limits
    scope: Scope

    def memory(self, loaded: Loaded, before: float, while_loading: float) -> Iterator[Row]:
        """Live bytes over ``before``, those held before the model was loaded; texts fill ``max_tokens`` a batch."""
        scope, tokens = self.scope, self.scope.max_tokens
        runner, held = loaded.runner(tokens), self.device.held() - before
        # The body of a short text fills its bucket, so that the batch has the tokens it is allowed.
        short = [PREFIX + scope.short] * max(1, tokens // scope.short)
        loads = {"longest": [tokens], "short": short}
        peaks = {}
        for name, lengths in loads.items():
            texts = prompts(lengths, scope.config.vocab_size)
            answers(runner, texts)  # compiles, creates handles and their workspaces
            peaks[name] = self.device.peak(partial(answers, runner, texts)) - before
        expected = loaded.way.predicted(scope.config, tokens, tokens)
        yield {
            "held_bytes": held,
            # Offloaded, the residual streams of a group count as weights there.
            "predicted_held_bytes": None if expected.offload else expected.weights + expected.prefix,
            "loading_peak_bytes": None if expected.offload else while_loading - before,
            "peak_bytes": max(peaks.values()),
            "peak_bytes_by_load": peaks,
            "predicted_peak_bytes": expected.peak,
            "measured_over_predicted": round(max(peaks.values()) / expected.peak, 4),
            "tokens": tokens,
            "aim_bytes": loaded.way.most if tokens >= 8192 else None,
        }

    def latency(self, loaded: Loaded) -> Iterator[Row]:
        """Requests from token ids to probabilities on the host; where a graph is recorded, both ways take turns."""
        scope, budget = self.scope, self.scope.token_budget
        eager, replaying = loaded.runner(budget), None
        if isinstance(loaded.first, Runner):
            replaying = loaded.runner(budget, capture=self.device.capture())
        for rows, length in scope.requests_of:
            runners: dict[str, Any] = {"eager": eager}
            pool = prompts([PREFIX + length] * (rows + 7), scope.config.vocab_size)
            texts = [pool[i : i + rows] for i in range(8)]
            if isinstance(replaying, Runner) and rows * length <= scope.graph_tokens:
                runners["graph"] = replaying
                shapes = [batch.shape[:2] for batch in replaying.batches(texts[0])]
                recording = self.device.seconds(partial(replaying.record, shapes))
            given = {name: [answers(runner, some) for some in texts[:3]] for name, runner in runners.items()}
            same = all(map(np.array_equal, given["eager"], given["graph"])) if "graph" in given else None
            first = max(self.device.seconds(partial(answers, runner, texts[0])) for runner in runners.values())
            # As many as take about ``seconds``; the fewest where no time is told.
            count = int(np.clip(scope.seconds / first, *scope.requests)) if first == first else scope.requests[0]
            requests = {
                name: partial(lambda runner, turn: answers(runner, next(turn)), runner, cycle(texts))
                for name, runner in runners.items()
            }
            for name, values in in_turn(self.device.seconds, requests, count).items():
                replayed = name == "graph"
                yield {
                    "texts": rows,
                    "tokens": length,
                    "by": name,
                    "milliseconds": tail([1e3 * value for value in values]),
                    "requests": len(values),
                    "equals_eager": same if replayed else None,
                    "record_seconds": recording if replayed else None,
                    "of_matmul": self._of_matmul([PREFIX + length] * rows, float(np.median(values))),
                }

    def throughput(self, loaded: Loaded) -> Iterator[Row]:
        """All texts of a mixture in one call, batched as the runner batches them."""
        runner = loaded.runner(self.scope.token_budget, default_costs(self.scope.config, "cuda", 2))
        for name, texts in self.scope.mixtures(self.scope.texts):
            computed = sum(result.computed_tokens for result in runner.run(texts))
            call = {name: partial(answers, runner, texts)}
            seconds = in_turn(self.device.seconds, call, self.scope.rounds)[name]
            fill = round(sum(len(text) - PREFIX for text in texts) / computed, 4)
            yield self.throughput_row(name, texts, seconds) | {"computed_tokens": computed, "fill": fill}

    def throughput_row(self, name: str, texts: Sequence[Ids], seconds: list[float]) -> Row:
        """Rates count the prompts' tokens as a user does, those of the shared prefix too."""
        best, tokens = float(np.median(seconds)), sum(map(len, texts))
        return {
            "mixture": name,
            "texts": len(texts),
            "tokens": tokens,
            "seconds": percentiles(seconds),
            "runs": len(seconds),
            "texts_per_s": len(texts) / best,
            "tokens_per_s": tokens / best,
            "of_matmul": self._of_matmul(list(map(len, texts)), best),
        }

    def waterfall(self, loaded: Loaded) -> Iterator[Row]:
        """The kernels of one batch by op, beside the batch's own time."""
        config = self.scope.config
        runner = loaded.runner(self.scope.token_budget)
        assert isinstance(runner, Runner)
        eager = Eager(runner.model, runner.head, runner.prefix)
        recipe = loaded.way.recipe(config)
        for rows, length in self.scope.batches:
            batch = full_batch(rows, length, config.vocab_size)
            ids, lengths = batch.ids.to(self.device.place), batch.lengths.to(self.device.place)
            forward = torch.inference_mode()(partial(eager.compute, ids, lengths, batch.start))
            forward()
            seconds = float(np.median([self.device.seconds(forward) for _ in range(5)]))
            about = {"batch": f"{rows} x {length}", "batch_seconds": seconds}
            for row in waterfall(self.device.kernels(forward), config, rows, length, self.limits, recipe):
                yield about | row

    def _of_matmul(self, lengths: Sequence[int], seconds: float) -> float:
        """FLOPs of the linear layers and attentions for the tokens after the prefix, a second, over the matmul's."""
        token, square = self.scope.config.flops()
        bodies = np.array(lengths, dtype=np.float64) - PREFIX
        flops = float((token * bodies + square * bodies**2).sum())
        return round(flops / seconds / self.limits.flops_per_s, 4)


def answers(runner: Any, texts: Sequence[Ids]) -> np.ndarray:
    """Logits fp32 ``[len(texts), answers]`` in the order of the texts; raises ValueError if one is not finite."""
    results = list(runner.run(texts))
    found = np.full((len(texts), results[0].logits.shape[1]), np.nan, dtype=np.float32)
    for result in results:
        found[list(result.rows)] = result.logits
    if not np.isfinite(found).all():
        raise ValueError("the model answered with NaN or infinity")
    return found


def full_batch(rows: int, length: int, vocabulary: int) -> StaticBatch:
    """Texts of ``length`` tokens after the prefix, without padding."""
    texts = np.stack(prompts([PREFIX + length] * rows, vocabulary))[:, PREFIX:].astype(np.int64)
    return StaticBatch(tuple(range(rows)), PREFIX, torch.from_numpy(texts), torch.full((rows,), length))


def tail(values: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99; None for what so few values do not tell."""
    enough = {50: 1, 95: 40, 99: 100}
    quantiles = {q: float(np.quantile(values, q / 100)) for q in enough}
    return {f"p{q}": round(quantiles[q], 4) if len(values) >= least else None for q, least in enough.items()}
