"""The figures of ``slant bench``, the rates derived from them, and both as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slant.bench.roofline import Executed, Limit, Rate
from slant.bench.turns import Spread
from slant.runtime.memory import Tier

FORMAT = 1


@dataclass(frozen=True)
class Load:
    """Seconds until the engine is ready: ``imports`` of Python modules, ``weights`` until the last block is in memory,
    tokenizer and embedding included, ``rest`` for the prompt's prefix and the self-test, ``warmup`` with a first text.
    """

    imports: float
    weights: float
    rest: float
    warmup: float


@dataclass(frozen=True)
class Memory:
    """Bytes. ``before`` and ``after`` loading: resident in this process (None where the system does not say).

    ``loading`` and ``working``: the peak until the model was loaded and until each workload had run once, on a CPU
    beyond ``before``, on a GPU as allocated by torch. ``predicted``: the tier's prediction for these workloads.
    """

    before: int | None
    after: int | None
    loading: int | None
    working: int | None
    predicted: int


@dataclass(frozen=True)
class Measured:
    """A workload's calls. ``first`` and ``first_encode``: seconds of its first call and of the tokenization in it.

    ``score``: whole calls of ``Engine.score``; ``encode``: their tokenization alone. ``tokens`` count whole prompts;
    ``batches`` exclude the prefix, which is computed once a model. ``rate``: the product rate at this workload's mean
    batch of ``rate_tokens``.
    """

    name: str
    kind: str
    texts: int
    tokens: int
    batches: tuple[Executed, ...]
    first: float
    first_encode: float
    score: Spread
    encode: Spread
    rate: Rate
    rate_tokens: int
    limit: Limit

    @property
    def computed(self) -> int:
        """Computed tokens, padding included."""
        return sum(batch.computed for batch in self.batches)

    @property
    def fill(self) -> float:
        """The share of computed tokens that are not padding."""
        return sum(batch.tokens for batch in self.batches) / self.computed

    @property
    def flops(self) -> float:
        return sum(batch.flops for batch in self.batches)

    @property
    def encode_share(self) -> float:
        """Tokenization's share of the median call."""
        return self.encode.p50 / self.score.p50

    @property
    def fraction(self) -> float:
        """The share of the limit that the median call reached; above 1 the measured limit is invalid."""
        return self.limit.seconds / self.score.p50

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "texts": self.texts,
            "tokens": self.tokens,
            "computed_tokens": self.computed,
            "batches": len(self.batches),
            "fill": self.fill,
            "first_s": self.first,
            "first_encode_s": self.first_encode,
            "score_s": asdict(self.score),
            "encode_s": asdict(self.encode),
            "encode_share": self.encode_share,
            "texts_per_s": self.score.per_second(self.texts),
            "tokens_per_s": self.score.per_second(self.tokens),
            "flops": self.flops,
            "flops_per_s": self.score.per_second(self.flops),
            "limit": {
                "flops_per_s": self.rate.per_second,
                "way": self.rate.way,
                "at_tokens": self.rate_tokens,
                "products_s": self.limit.products,
                "reads_s": self.limit.reads,
                "seconds": self.limit.seconds,
                "bound": self.limit.bound,
            },
            "fraction_of_limit": self.fraction,
        }


@dataclass(frozen=True)
class BenchReport:
    """One run. ``machine`` and ``settings`` are plain JSON values; every batch reads ``weight_bytes``."""

    time: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    tier: Tier
    load: Load
    memory: Memory
    weight_bytes: int
    read: Rate
    limits: Mapping[str, Spread]
    workloads: Sequence[Measured]

    @property
    def exceeding(self) -> list[Measured]:
        """The workloads that were faster than their measured limit."""
        return [one for one in self.workloads if one.fraction > 1]

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "time": self.time,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "tier": asdict(self.tier),
            "load_s": asdict(self.load),
            "memory": asdict(self.memory) | {"predicted_up_to_max_tokens": self.tier.peak},
            "weight_bytes": self.weight_bytes,
            "read": {"way": self.read.way, "bytes_per_s": self.read.per_second},
            "limit_samples_s": {name: asdict(spread) for name, spread in self.limits.items()},
            "workloads": [one.as_json() for one in self.workloads],
        }
