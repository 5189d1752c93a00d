"""The calls that are timed in turn: the workloads, their tokenization, and the kernels that measure the limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slant.bench.roofline import Products, Rate, Way, reads, repeated
from slant.bench.subject import First, Subject
from slant.bench.texts import Workload
from slant.bench.turns import Run, Spread, Watch, calls, take_turns

LIMIT_SHARE = 0.125  # of a workload's seconds, for each kernel of a limit
Key = tuple[str, str]  # what is timed, and of which workload or kernel


class Contenders:
    """The calls that are compared, by key; those of the limits are warmed up when added."""

    def __init__(self, subject: Subject, watch: Watch, ways: Mapping[str, Way]) -> None:
        self._engine, self._watch, self._ways = subject.engine, watch, ways
        self._products = Products(subject.config, subject.dtype, subject.device, ways)
        self._runs: dict[Key, Run] = {}
        self._first: dict[Key, float] = {}
        self._amounts: dict[Key, float] = {}
        for way, (run, moved) in reads(subject.weight_bytes, subject.device).items():
            self._limit(("read", way), run, moved)

    def add(self, workload: Workload, first: First) -> None:
        """Add a workload with its first call, and the products of its mean batch."""
        texts, tokens = list(workload.texts), first.mean_tokens
        self._runs["score", workload.name] = lambda: self._engine.score(texts)
        self._first["score", workload.name] = first.seconds
        self._runs["encode", workload.name] = lambda: self._engine.prompt.encode(texts)
        for way in self._ways:
            if (f"products of {tokens}", way) not in self._runs:
                run = self._products.run(way, tokens)
                self._limit((f"products of {tokens}", way), run, self._products.flops(tokens))

    def samples(self, seconds: float, progress: Callable[[int, int], None]) -> dict[Key, list[float]]:
        """Seconds of each call, taken in turn."""
        budgets = {key: seconds if key[0] in ("score", "encode") else LIMIT_SHARE * seconds for key in self._runs}
        planned = {key: calls(first, budgets[key]) for key, first in self._first.items()}
        # As many calls as of the workloads that they are a part of.
        planned |= {key: planned["score", key[1]] for key in self._runs if key[0] == "encode"}
        return take_turns(self._runs, planned, budgets, self._watch, progress)

    def best(self, kind: str, spreads: Mapping[Key, Spread]) -> Rate:
        """The highest rate among the kernels of a kind."""
        keys = [key for key in self._amounts if key[0] == kind]
        return Rate.best({way: self._amounts[kind, way] for _, way in keys}, {key[1]: spreads[key].p50 for key in keys})

    def _limit(self, key: Key, run: Run, amount: float) -> None:
        self._runs[key], count, self._first[key] = repeated(run, self._watch)
        self._amounts[key] = count * amount
