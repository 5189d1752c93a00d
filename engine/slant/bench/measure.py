"""Measures a model: loads it, calls each workload once, then times all of them and their limits in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from slant.bench import roofline
from slant.bench.contenders import Contenders, Key
from slant.bench.machine import machine
from slant.bench.report import BenchReport, Measured
from slant.bench.roofline import Limit, Way
from slant.bench.subject import First, Subject
from slant.bench.texts import Workload, Writer, own, workloads
from slant.bench.turns import Spread, Watch
from slant.errors import SlantError
from slant.options import LoadOptions

Progress = Callable[[str, int, int], None]


def measure(
    folder: Path,
    options: LoadOptions,
    *,
    lengths: Sequence[int] | None = None,
    counts: Sequence[int] = (1, 8, 64),
    texts: Sequence[object] | None = None,
    seconds: float = 3.0,
    imports: float = 0.0,
    progress: Progress = lambda stage, done, total: None,
    now: Callable[[], float] = time.perf_counter,
    ways: Mapping[str, Way] | None = None,
) -> BenchReport:
    """Load a model's folder and measure it.

    lengths: tokens of the prompts of single texts; the shortest is that of the texts of each of ``counts`` too.
    texts: the user's own. seconds: what each workload may take beyond its first call and the two that it has at least.
    imports: seconds that importing the engine took. progress: called with a stage's name and what of it is done.
    now: a clock in seconds. ways: the ways to multiply whose fastest is the limit.

    Raises SlantError for a length that no prompt has, for texts none of which can be scored, and as ``Engine.load``.
    """
    subject = Subject.loaded(
        folder, options, imports=imports, progress=lambda done, total: progress("loading", done, total), now=now
    )
    watch, prompt = Watch(subject.device, now), subject.engine.prompt
    writer = Writer(prompt)
    lengths = tuple(lengths or writer.lengths())
    loads = workloads(writer, lengths, counts) + ([] if texts is None else [own(prompt, texts)])
    firsts: dict[str, First] = {}
    for done, workload in enumerate(loads):
        progress("first calls", done, len(loads))
        firsts[workload.name] = subject.first(workload, watch)
    progress("first calls", len(loads), len(loads))
    # Before the limits, whose matrices are not the model's memory.
    held = subject.memory([batch for first in firsts.values() for batch in first.batches])

    try:
        if ways is None:
            ways = roofline.ways(subject.dtype, subject.device, int8=subject.engine.options.int8)
        contenders = Contenders(subject, watch, ways)
        for workload in loads:
            contenders.add(workload, firsts[workload.name])
        samples = contenders.samples(seconds, lambda done, total: progress("measuring", done, total))
    except torch.OutOfMemoryError:
        raise SlantError(
            f"the matrices that measure the limit do not fit {subject.device} beside the model; "
            "give a smaller --memory."
        ) from None
    spreads = {key: Spread.of(taken) for key, taken in samples.items()}
    return BenchReport(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(subject.device) | {"device": str(subject.device)},
        settings={
            "model": str(folder),
            "config": asdict(subject.config),
            "weights": options.weights,
            "dtype": str(subject.dtype).removeprefix("torch."),
            "max_tokens": subject.engine.options.max_tokens,
            "prefix_tokens": len(prompt.prefix_ids),
            "lengths": list(lengths),
            "texts": list(counts),
            "seconds": seconds,
            "memory": options.memory,
        },
        tier=subject.tier,
        load=subject.load,
        memory=held,
        weight_bytes=subject.weight_bytes,
        read=contenders.best("read", spreads),
        limits={" ".join(key): spread for key, spread in spreads.items() if key[0] not in ("score", "encode")},
        workloads=[_measured(one, firsts[one.name], spreads, contenders, subject.weight_bytes) for one in loads],
    )


def _measured(
    workload: Workload, first: First, spreads: Mapping[Key, Spread], contenders: Contenders, weight_bytes: int
) -> Measured:
    rate, read = (contenders.best(kind, spreads) for kind in (f"products of {first.mean_tokens}", "read"))
    return Measured(
        name=workload.name,
        kind=workload.kind,
        texts=len(workload.texts),
        tokens=first.tokens,
        batches=first.batches,
        first=first.seconds,
        first_encode=first.encode,
        score=spreads["score", workload.name],
        encode=spreads["encode", workload.name],
        rate=rate,
        rate_tokens=first.mean_tokens,
        limit=Limit.of(first.batches, rate.per_second, weight_bytes, read.per_second),
    )
