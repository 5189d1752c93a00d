"""Measures a model: loads it, calls each workload once, then times all of them and their limits in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slant.bench import roofline
from slant.bench.machine import machine, peak, resident
from slant.bench.roofline import Executed
from slant.bench.texts import Workload, Writer, own, workloads
from slant.bench.turns import Key, Run, Watch, calls, per_second, spread, take_turns
from slant.engine import Engine
from slant.errors import SlantError
from slant.model.registry import activation_bytes
from slant.options import LoadOptions
from slant.prompt.prompt import EncodedText
from slant.runtime.execution import Answers
from slant.runtime.memory import layer_bytes
from slant.runtime.resolved import choose_device
from slant.scores import Score, require_an_answer

LIMIT_SHARE = 0.125  # of a workload's seconds, for each kernel of a limit


def measure(
    folder: Path,
    options: LoadOptions,
    *,
    lengths: Sequence[int] | None = None,
    counts: Sequence[int] = (1, 8, 64),
    texts: Sequence[object] | None = None,
    seconds: float = 3.0,
    imports: float = 0.0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Load a model's folder and measure it; returns what ``slant bench --json`` prints.

    lengths: tokens of the prompts of single texts; the shortest is that of the texts of each of ``counts`` too.
    texts: the user's own. seconds: what each workload may take beyond its first call and the two that it has at least.
    imports: seconds that importing the engine took. progress: called with a stage's name and what of it is done.
    now: a clock in seconds.

    ``load_s``: ``weights`` until the last block is in memory, tokenizer and embedding included; ``rest`` for the
    prompt's prefix and the self-test; ``warmup`` with a first text. ``memory`` in bytes, None where the system does not
    say: ``before`` and ``after`` loading as resident in this process; ``loading`` and ``working``, the peak until the
    model was loaded and until each workload had run once, on a CPU beyond ``before``, on a GPU as allocated by torch;
    ``predicted`` by the tier for these workloads. Every batch reads ``weight_bytes``.

    Raises SlantError for a length that no prompt has, for texts none of which can be scored, and as ``Engine.load``.
    """
    device, before = choose_device(options.device), resident()
    watch = Watch(device, now)
    start = blocks = now()

    def loading(done: int, total: int) -> None:
        nonlocal blocks
        blocks = now()
        progress("loading", done, total)

    engine = Engine.load(folder, options, progress=loading)
    load = {"imports": imports, "weights": blocks - start, "rest": now() - blocks}
    after, loaded = resident(), peak(device)
    load["warmup"] = watch(engine.warmup)
    request, tier, prompt = engine.request, engine.tier, engine.prompt
    assert request is not None
    assert tier is not None
    config, dtype = request.config, request.dtype
    layers = range(config.num_hidden_layers)
    weight_bytes = sum(layer_bytes(request, index, quantized=tier.quantized) for index in layers)

    writer = Writer(prompt)
    lengths = tuple(lengths or writer.lengths())
    loads = workloads(writer, lengths, counts) + ([] if texts is None else [own(prompt, texts)])
    firsts: dict[str, First] = {}
    for done, workload in enumerate(loads):
        progress("first calls", done, len(loads))
        firsts[workload.name] = first_call(engine, workload, watch)
    progress("first calls", len(loads), len(loads))
    # Before the limits, whose matrices are not the model's memory.
    held = 0 if device.type == "cuda" else before or 0
    loading_peak, working_peak = (None if size is None else size - held for size in (loaded, peak(device)))
    shapes = {(batch.rows, batch.computed // batch.rows) for first in firsts.values() for batch in first.batches}
    batches = max(activation_bytes(config, dtype.itemsize, *shape, device.type) for shape in shapes)
    memory = {
        "before": before,
        "after": after,
        "loading": loading_peak,
        "working": working_peak,
        "predicted": tier.weights + tier.prefix + batches,
        "predicted_up_to_max_tokens": tier.peak,
    }

    try:
        means = {first.mean_tokens for first in firsts.values()}
        eight_bit, w4a8 = engine.options.eight_bit, engine.options.w4a8
        kernels = roofline.kernels(config, dtype, device, means, weight_bytes, eight_bit=eight_bit, w4a8=w4a8)
        repeats = {key: roofline.repeated(run, watch) for key, (run, _) in kernels.items()}
        runs: dict[Key, Run] = {key: run for key, (run, _, _) in repeats.items()}
        budgets = dict.fromkeys(runs, LIMIT_SHARE * seconds)
        planned = {key: calls(once, budgets[key]) for key, (_, _, once) in repeats.items()}
        for workload in loads:
            both = ("score", workload.name), ("encode", workload.name)
            texts = list(workload.texts)
            runs |= zip(both, (partial(engine.score, texts), partial(prompt.encode, texts)), strict=True)
            budgets |= dict.fromkeys(both, seconds)
            planned |= dict.fromkeys(both, calls(firsts[workload.name].seconds, seconds))
        samples = take_turns(runs, planned, budgets, watch, partial(progress, "measuring"))
    except torch.OutOfMemoryError:
        raise SlantError(
            f"the matrices that measure the limit do not fit {device} beside the model; give a smaller --memory."
        ) from None
    spreads = {key: spread(taken) for key, taken in samples.items()}
    rates = {key: kernels[key][1] * times / spreads[key]["p50"] for key, (_, times, _) in repeats.items()}
    read_way, read = roofline.best(rates, "read")
    measured = []
    for workload in loads:
        first = firsts[workload.name]
        way, flops = roofline.best(rates, f"products of {first.mean_tokens}")
        limit = {"flops_per_s": flops, "way": way, "at_tokens": first.mean_tokens}
        limit |= roofline.limit(first.batches, flops, weight_bytes, read)
        score, encode = (spreads[kind, workload.name] for kind in ("score", "encode"))
        measured.append(figures(workload, first, score, encode, limit))
    return {
        "format": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device) | {"device": str(device)},
        "settings": {
            "model": str(folder),
            "config": asdict(config),
            "weights": options.weights,
            "dtype": str(dtype).removeprefix("torch."),
            "max_tokens": engine.options.max_tokens,
            "prefix_tokens": len(prompt.prefix_ids),
            "lengths": list(lengths),
            "texts": list(counts),
            "seconds": seconds,
            "memory": options.memory,
        },
        "tier": asdict(tier),
        "load_s": load,
        "memory": memory,
        "weight_bytes": weight_bytes,
        "read": {"way": read_way, "bytes_per_s": read},
        "limit_samples_s": {" ".join(key): spreads[key] for key in kernels},
        "workloads": measured,
    }


@dataclass(frozen=True)
class First:
    """A workload's first call: tokens of its whole prompts, its batches without the prompt's prefix, which is computed
    once a model, and its seconds, those of the tokenization in ``encode``.
    """

    tokens: int
    batches: tuple[Executed, ...]
    encode: float
    seconds: float

    @property
    def mean_tokens(self) -> int:
        """Computed tokens of the mean batch."""
        return round(sum(batch.computed for batch in self.batches) / len(self.batches))


def first_call(engine: Engine, workload: Workload, watch: Watch) -> First:
    """Call a workload for the first time; raises SlantError for a text that cannot be scored, or if none is."""
    assert engine.request is not None
    encoded: list[EncodedText] = []
    results: list[Answers] = []
    encode = watch(lambda: encoded.extend(engine.prompt.encode(workload.texts)))
    error = next((text.error for text in encoded if text.error is not None), None)
    if error is not None:
        raise SlantError(f"{workload.name}: {error}")
    run = watch(lambda: results.extend(engine.runner.run([text.ids for text in encoded])))
    if not any(np.isfinite(result.logits).all(axis=1).any() for result in results):
        require_an_answer(Score.not_finite(len(engine.labels)) for _ in encoded)
    prefix = engine.prompt.prefix_ids
    # As in the engine, a text that does not start with the prefix is computed whole.
    starts = [len(prefix) if tuple(text.ids[: len(prefix)]) == prefix else 0 for text in encoded]
    batches = []
    for result in results:
        mine = [(len(encoded[row].ids) - starts[row], starts[row]) for row in result.rows]
        flops = sum(roofline.text_flops(engine.request.config, length, start) for length, start in mine)
        batches.append(Executed(len(mine), result.computed_tokens, sum(length for length, _ in mine), flops))
    return First(sum(len(text.ids) for text in encoded), tuple(batches), encode, encode + run)


def figures(
    workload: Workload, first: First, score: Mapping[str, Any], encode: Mapping[str, Any], limit: Mapping[str, Any]
) -> dict[str, Any]:
    """A workload's rates by the spreads of whole calls and of their tokenization; ``tokens`` count whole prompts.

    ``fill``: the share of computed tokens that are not padding. ``fraction_of_limit``: what the median call reached;
    above 1 the measured limit is invalid.
    """
    texts, computed = len(workload.texts), sum(batch.computed for batch in first.batches)
    flops = sum(batch.flops for batch in first.batches)
    return {
        "name": workload.name,
        "kind": workload.kind,
        "texts": texts,
        "tokens": first.tokens,
        "computed_tokens": computed,
        "batches": len(first.batches),
        "fill": sum(batch.tokens for batch in first.batches) / computed,
        "first_s": first.seconds,
        "first_encode_s": first.encode,
        "score_s": score,
        "encode_s": encode,
        "encode_share": encode["p50"] / score["p50"],
        "texts_per_s": per_second(score, texts),
        "tokens_per_s": per_second(score, first.tokens),
        "flops": flops,
        "flops_per_s": per_second(score, flops),
        "limit": limit,
        "fraction_of_limit": limit["seconds"] / score["p50"],
    }
