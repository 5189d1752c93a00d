"""One weight format in a process of its own: ``formats.py`` runs it, and reads its rows from stdout.

    python benchmarks/one_format.py '{"model": ..., "weights": ..., "started": ...}'

The peak is that of the process at its end, interpreter and libraries included. ``started`` is when it was started.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.process import Reply
from harness.rows import Row, environment
from harness.timing import measure
from harness.workloads import mixture, sequences
from slant.batching.batches import Ids
from slant.bench.machine import peak, resident
from slant.engine import Engine
from slant.options import LoadOptions
from slant.runtime.resolved import use_threads
from slant.runtime.runner import Runner

POSTS, PROBE = 64, 200  # texts; tokens
FIRST = "A text of a few words."


def main(request: dict[str, Any]) -> None:
    options = LoadOptions(device="cpu", weights=request["weights"], threads=request["threads"])
    use_threads(options.threads, everywhere=True)
    start = time.perf_counter()
    engine = Engine.load(request["model"], options)
    load_s, loaded = time.perf_counter() - start, resident()
    engine.score(FIRST)
    cold_s = time.time() - request["started"]
    assert engine.tier is not None
    about = environment() | {"status": "ok"}
    about |= {"weights": engine.options.weights, "dtype": engine.options.dtype_name}
    scored = list(scores(engine, request, cold_s))
    load = {"kind": "load", "load_s": round(load_s, 3), "cold_s": round(cold_s, 3), "rss_loaded": loaded}
    load |= {"peak_rss": peak(engine.runner.device), "predicted": asdict(engine.tier) | {"peak": engine.tier.peak}}
    for row in (load | {"tier": engine.tier.name}, *scored):
        print(json.dumps(about | row), flush=True)


def scores(engine: Engine, request: dict[str, Any], cold_s: float) -> Sequence[Row]:
    """A row a workload, in the given order; one that would take longer than what is left is skipped, and says so."""
    assert isinstance(engine.runner, Runner)
    limit = engine.options.max_tokens
    texts = {name: made(name, engine.runner, limit) for name in request["workloads"]}
    tokens = {name: sum(len(ids) - len(engine.runner.prefix_ids) for ids in each) for name, each in texts.items()}

    def ask(name: str) -> Reply:
        start = time.perf_counter()
        answers = [each.tolist() for each in run(engine, texts[name])]
        return Reply(time.perf_counter() - start, answers, None)

    left, rate, total = max(0.0, request["seconds"] - cold_s), 0.0, 0.0
    # The longest that takes next to nothing tells how long the others take: a short text reads all weights for little.
    for name in sorted(tokens, key=lambda name: tokens[name]):
        if tokens[name] > PROBE and rate:
            break
        rate = min(ask(name).seconds for _ in range(2)) / tokens[name]
    predicted: dict[str, float | None] = {}
    for name, count in tokens.items():
        fits = total + rate * count <= left
        predicted[name] = None if fits else rate * count
        total += rate * count if fits else 0
    timings = measure(ask, list(texts), predicted, count=request["rounds"], max_seconds=left / len(texts))
    rows = []
    for name, timing in timings.items():
        row = timing.row(None, len(texts[name]))
        seconds = row["seconds"] and row["seconds"]["p50"]
        kept = {key: row[key] for key in ("status", "texts", "rounds", "seconds", "texts_per_second")}
        kept["tokens_per_second"] = round(tokens[name] / seconds, 2) if seconds else None
        rows.append({"kind": "score", "workload": name, "tokens": tokens[name]} | kept)
    return rows


def made(name: str, runner: Runner, limit: int) -> list[Ids]:
    """``1x128`` is one text of 128 random tokens after the prefix; posts are 64 of drawn lengths."""
    prefix, vocabulary = runner.prefix_ids, runner.model.config.vocab_size
    if name == "posts":
        return sequences(prefix, [length - len(prefix) for length in mixture("posts", POSTS, limit)], vocabulary)
    count, length = map(int, name.split("x"))
    return sequences(prefix, [min(length, limit - len(prefix))] * count, vocabulary)


def run(engine: Engine, texts: list[Ids]) -> Sequence[Any]:
    answers: dict[int, Any] = {}
    for result in engine.runner.run(texts):
        answers.update(zip(result.rows, result.logits, strict=True))
    return [answers[row] for row in range(len(texts))]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
