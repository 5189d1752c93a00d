"""Whole models beside transformers with the same weights, and the same bits however they are held and batched.

The demo checkpoint through the engine, from texts to logits; and random weights of the 0.8B shape through a runner,
from token ids. transformers in fp32 is the truth, and what it errs in bf16 is the measure of what ours may.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu.findings import Check, Finding, Place
from gpu.kernel_cases import TINY_SHAPE
from gpu.model_measures import answers
from gpu.model_tiers import BF16_RESIDENT, WAYS, Loaded, Way, load
from harness.workloads import ANSWERS, PREFIX, prompts
from random_model import SHAPES, RandomSource
from slant.batching.batches import Ids
from slant.model.registry import parse_config
from slant_kernels.fp8 import multiplies_fp8

FP8, HQQ4 = (next(way for way in WAYS if way.name == name) for name in ("fp8", "hqq4"))
FP32_RESIDENT = Way("fp32", "fp32", "resident")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_TOKENS = 2048
# Ours in fp32 multiplies by three products of tf32: a small part of what bf16 makes.
OF_BF16 = 0.05
Logits = NDArray[np.float32]


def checks(place: Place) -> list[Check]:
    demo, model = Demo(place), Random(place)
    shape = "tiny" if place.dry else "0.8b"
    found = [
        Check("demo beside transformers", "demo", "bf16", partial(beside, demo, "bf16")),
        Check("random beside transformers", shape, "bf16", partial(beside, model, "bf16")),
    ]
    for way in filter(None, (BF16_RESIDENT, HQQ4, FP8 if multiplies_fp8(place.target) else None)):
        found += [
            Check(f"graphs equal eager, {way.name}", shape, "bf16", partial(model.graphs, way)),
            Check(f"deterministic, {way.name}", shape, "bf16", partial(model.deterministic, way)),
            Check(f"neighbours, {way.name}", shape, "bf16", partial(model.neighbours, way)),
            Check(f"twice, {way.name}", shape, "bf16", partial(model.twice, way)),
        ]
    for way in WAYS:
        if way.weights == HQQ4.weights and way is not HQQ4:
            found.append(Check(f"{way.name} equals resident", shape, "bf16", partial(model.tier, way)))
    found += [
        Check("the engine deterministic", "demo", "bf16", demo.deterministic),
        Check("the engine within autocast", "demo", "bf16", partial(demo.within, "autocast")),
        Check("the engine within deterministic algorithms", "demo", "bf16", partial(demo.within, "algorithms")),
        # Last: the kernels of fp32 take half a minute to compile.
        Check("demo beside transformers", "demo", "fp32", partial(beside, demo, "fp32")),
        Check("random beside transformers", shape, "fp32", partial(beside, model, "fp32")),
    ]
    return found


def beside(of: Any, weights: str) -> Iterator[Finding]:
    """Logits and probabilities, in root mean square and at worst."""
    truth, theirs = of.theirs("fp32"), of.theirs("bf16")
    ours = of.ours(weights)
    for what, change in (("logits", lambda x: x), ("probabilities", softmax)):
        for kind, size in (("RMS", rms), ("largest", lambda x: float(np.abs(x).max()))):
            error, measure = size(change(ours) - change(truth)), size(change(theirs) - change(truth))
            bound = (2 if weights == "bf16" else OF_BF16) * measure
            note = f"{kind} of {what}; transformers in bf16 {measure:.2e}, the logits' own {rms(truth):.2e}"
            yield Finding(error, bound, note)


def plain_transformers() -> Any:
    """transformers, which takes its plain torch path where these packages are not to be found."""
    sys.modules |= dict.fromkeys(("fla", "causal_conv1d"))
    import transformers

    return transformers


def rms(x: Logits) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def softmax(x: Logits) -> Logits:
    odds = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


def same(found: Logits, expected: Logits, note: str = "") -> Finding:
    """Bit for bit; the error counts the logits that differ."""
    largest = float(np.abs(found - expected).max())
    return Finding(float((found != expected).sum()), 0.0, f"{note} largest difference {largest:.2e}".strip())


@dataclass(frozen=True)
class Demo:
    """The demo checkpoint and its passages."""

    place: Place

    @property
    def texts(self) -> list[str]:
        from slant.demo import passages

        return [passage["text"] for passage in passages()][: 2 if self.place.dry else None]

    @cache  # noqa: B019
    def theirs(self, weights: str) -> Logits:
        from slant.demo import FOLDER
        from slant.evaluation.reference import Reference

        plain_transformers()
        reference = Reference.load(FOLDER, weights=weights, device=str(self.place.device))
        return np.asarray(reference.score(self.texts, batch_size=4).logits)

    def engine(self, **options: Any) -> Any:
        from slant import Engine
        from slant.demo import FOLDER

        return Engine.load(FOLDER, **{"device": str(self.place.device), "max_tokens": MAX_TOKENS} | options)

    def ours(self, weights: str, texts: list[str] | None = None, **options: Any) -> Logits:
        return logits_of(self.engine(weights=weights, **options), texts or self.texts)

    def deterministic(self) -> Iterable[Finding]:
        """The same bits whatever else is in the call."""
        engine = self.engine(weights="bf16", deterministic=True, token_budget=512 if self.place.dry else 4096)
        texts = self.texts[:8]
        together, alone = logits_of(engine, texts), [logits_of(engine, [text]) for text in texts]
        yield same(np.concatenate(alone), together, "alone")
        yield same(logits_of(engine, texts[::-1])[::-1], together, "in reverse")

    def within(self, what: str) -> Iterable[Finding]:
        """A program around the engine that has autocast on, or forbids what is not deterministic."""
        engine = self.engine(weights="bf16")
        expected = logits_of(engine, self.texts)
        with autocast(self.place) if what == "autocast" else algorithms():
            yield same(logits_of(engine, self.texts), expected, "a loaded engine")
            yield same(self.ours("bf16"), expected, "one that is loaded within")


def logits_of(engine: Any, texts: list[str]) -> Logits:
    scores = engine.score(texts)
    if errors := [error for error in scores.error if error]:
        raise ValueError(f"{len(errors)} texts have errors: {errors[0]}")
    return np.asarray(scores.logits)


@contextmanager
def autocast(place: Place) -> Iterator[None]:
    dtype = torch.bfloat16 if place.dry else torch.float16
    with torch.autocast(place.device.type, dtype=dtype):
        yield


@contextmanager
def algorithms() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Random:
    """Random weights of a whole shape. What a tensor holds depends on its name, so all ways to hold it agree."""

    place: Place

    @property
    def shape(self) -> dict[str, Any]:
        return TINY_SHAPE if self.place.dry else SHAPES["0.8b"]

    def texts(self) -> list[Ids]:
        lengths = (1, 17, 40) if self.place.dry else (1, 15, 64, 65, 128, 300, 777, 1500)
        return prompts([PREFIX + length for length in lengths], self.shape["vocab_size"])

    @cache  # noqa: B019
    def theirs(self, weights: str) -> Logits:
        from slant.evaluation.reference import last_logits

        transformers = plain_transformers()
        source, dtype = RandomSource(parse_config(self.shape), self.place.device), DTYPES[weights]
        settings = transformers.Qwen3_5TextConfig(
            **{k: v for k, v in self.shape.items() if k not in ("architectures", "model_type")}
        )
        with torch.device(self.place.device):
            model = transformers.AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
        state = {f"model.{name}": source.read(name) for name in source.tensors}
        told = model.load_state_dict(state, strict=False)
        if told.unexpected_keys or set(told.missing_keys) - {"lm_head.weight"}:
            raise ValueError(f"transformers' names differ: {told.missing_keys[:3]}, {told.unexpected_keys[:3]}")
        model.tie_weights()
        found = [last_logits(model, [ids.tolist()], ANSWERS) for ids in self.texts()]
        return torch.cat(found).numpy()

    def loaded(self, way: Way) -> Loaded:
        return load(way, parse_config(self.shape), self.place.device, MAX_TOKENS + PREFIX)

    def ours(self, weights: str) -> Logits:
        way = FP32_RESIDENT if weights == "fp32" else BF16_RESIDENT
        return answers(self.loaded(way).runner(MAX_TOKENS), self.texts())

    def graphs(self, way: Way) -> Iterable[Finding]:
        """Replayed twice: the second time the buffers hold the first one's texts."""
        loaded, texts = self.loaded(way), self.texts()
        eager = loaded.runner(MAX_TOKENS)
        replaying: Any = loaded.runner(MAX_TOKENS, capture=self.place.bench.capture())
        replaying.record(batch.shape[:2] for batch in replaying.batches(texts))
        expected, backwards = answers(eager, texts), answers(eager, texts[::-1])
        for turn in ("first", "second"):
            yield same(answers(replaying, texts), expected, turn)
            yield same(answers(replaying, texts[::-1]), backwards, f"{turn}, in reverse")

    def deterministic(self, way: Way) -> Iterable[Finding]:
        """Each text alone as among all others."""
        runner: Any = self.loaded(way).runner(MAX_TOKENS)
        runner.planner = replace(runner.planner, deterministic=True)
        together = answers(runner, self.texts())
        yield same(np.concatenate([answers(runner, [text]) for text in self.texts()]), together)

    def neighbours(self, way: Way) -> Iterable[Finding]:
        """In a batch of the same shape, among other texts and in another row."""
        length = 12 if self.place.dry else 60
        runner, texts = self.loaded(way).runner(MAX_TOKENS), prompts([PREFIX + length] * 7, self.shape["vocab_size"])
        first, moved = answers(runner, texts[:4]), answers(runner, [texts[5], texts[6], texts[0], texts[4]])
        yield same(moved[2:3], first[:1])

    def twice(self, way: Way) -> Iterable[Finding]:
        runner = self.loaded(way).runner(MAX_TOKENS)
        expected = answers(runner, self.texts())
        for _ in range(3):
            yield same(answers(runner, self.texts()), expected)

    def tier(self, way: Way) -> Iterable[Finding]:
        """hqq4 held in another way; three times, since a block that came too late would show in one of them."""
        expected = answers(self.loaded(HQQ4).runner(MAX_TOKENS), self.texts())
        runner = self.loaded(way).runner(MAX_TOKENS)
        for _ in range(3):
            yield same(answers(runner, self.texts()), expected)
