"""slant and its peers side by side: the same model, texts and threads, in turn, each in a process of its own.

    python benchmarks/compare_peers.py MODEL --converted FOLDER --python llama=PATH --python onnx=PATH

MODEL is a checkpoint folder with a tokenizer, FOLDER what ``peers/convert.py`` made of it. Every system gets the same
token ids, so tokenization is in no figure, except for those that read text. All sequences begin with the prompt's
prefix, whose state slant keeps: that is part of what it offers; ``slant-bf16-whole`` goes without. A system that
batches is asked for workloads of several texts only: one text alone is the same for it as for its twin without batches.

``ONEDNN_MAX_CPU_ISA`` and ``ATEN_CPU_CAPABILITY`` in the environment restrict slant, transformers and OpenVINO to older
instructions, which the rows name; give a llama.cpp that was compiled for them. ONNX Runtime cannot be restricted.

All systems stay loaded, so that they can take turns. Where they do not fit the memory together, call once for some and
again for others with ``--run``, each time with ``slant-bf16`` and ``transformers-fp32-1``, to which the figures refer.

One row of results/peers.jsonl is one workload on one system; where it was skipped or failed the row says why.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from harness.process import Pool, Reply, WorkerError
from harness.rows import RESULTS, Row, append, environment, named
from harness.tables import rich_table
from harness.timing import Timing, measure, ratio
from peers.systems import BASE, NOT_RESTRICTED, SYSTEMS, TRUTH, UNRESTRICTED, System
from peers.workloads import Workload, warm_up, workloads
from slant.prompt.prompt import Prompt

RESULT = "peers"
MAX_TOKENS = 8192
COLUMNS = {
    "workload": "workload",
    "system": "system",
    "tokens/s": "tokens_per_second:.0f",
    "texts/s": "texts_per_second:.1f",
    "time against slant's": "ratio:.2f",
    "logits off by": "agreement:.4f",
    "load s": "load_s:.1f",
    "loaded GB": "rss_loaded:.2f/1e9",
    "loading peak GB": "load_peak_rss:.2f/1e9",
    "peak GB": "peak_rss:.2f/1e9",
    "status": "status",
    "note": "note",
}
RESERVE = 4  # times the checkpoint's bytes: a float32 copy beside the mapped file is more than three times


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    console = Console()
    prompt = Prompt.load(options.model, max_tokens=MAX_TOKENS)
    loads = workloads(prompt, lambda name: named(name, options.workloads))
    systems = [each for each in SYSTEMS if named(each.name, options.systems) and any(asked(each, x) for x in loads)]
    if not loads or not systems:
        raise SystemExit("there is nothing to measure: --systems and --workloads name nothing that goes together.")
    head = environment() | {
        "run": options.run or datetime.now(UTC).isoformat(timespec="seconds"),
        "model": options.model.name,
        "threads": options.threads,
        "limit_tokens_per_second": options.limit,
        "prefix_tokens": len(prompt.prefix_ids),
    }
    console.print(f"run {head['run']}: {len(loads)} workloads on {len(systems)} systems.", markup=False)
    rows = []
    weights = sum(path.stat().st_size for path in options.model.glob("*.safetensors"))
    reserve = RESERVE * weights if options.reserve is None else options.reserve * 1e9
    pythons = {f"peers.backends:{name}": path for name, path in options.python}
    with (
        closing(Pool(options.threads, options.max_seconds * 3 + 60, reserve, pythons)) as pool,
        Progress(console=console, transient=True) as progress,
    ):
        doing = progress.add_task("", total=None)
        for system in systems:
            progress.update(doing, description=f"loading {system.name}")
            start(pool, system, prompt, loads, options)
            if loaded := pool.loaded(system.name):
                console.print(f"{system.name}: {loaded.load_s:.1f} s, {(loaded.rss or 0) / 1e9:.2f} GB", markup=False)
            else:
                console.print(f"{system.name}: {pool.failures[system.name]}", markup=False)
        for load in progress.track(loads):

            def tell(name: str, load: Workload = load) -> None:
                progress.update(doing, description=f"{load.name} {name}")

            for row in compare(pool, systems, load, options.rounds, options.max_seconds, tell):
                rows.append(head | row)
                append(RESULT, rows[-1], options.results)
    console.print(rich_table(rows, COLUMNS))


def start(pool: Pool, system: System, prompt: Prompt, loads: Sequence[Workload], options: argparse.Namespace) -> None:
    """Load a system and let it answer twice, which warms it up and gives its predictions a beginning."""
    path = system.path(options.model, options.artifact, options.converted)
    if path is None:
        pool.failures[system.name] = f"its model, {system.model}, was not given or not made"
        return
    warm = warm_up(prompt)
    longest = [max(map(len, load.sequences)) for load in loads if asked(system, load) or not system.sized]
    settings = {
        **system.options,
        "model": path,
        "threads": options.threads,
        "answers": list(prompt.answer_ids),
        "prefix": list(prompt.prefix_ids),
        "max_tokens": max([*longest, warm.tokens]),
    }
    pool.start(system.name, system.module, settings)
    try:
        for _ in range(2):
            ask(pool, system, warm)
    except WorkerError as error:
        pool.failures[system.name] = str(error)


def ask(pool: Pool, system: System, load: Workload) -> Reply:
    return pool.ask(system.name, load.texts or [] if system.reads_text else load.sequences, system.batch, load.tokens)


def asked(system: System, load: Workload) -> bool:
    """Whether a workload says anything about a system."""
    if system.reads_text:
        return load.texts is not None
    return len(load.sequences) > 1 or system.batch <= 1


def compare(
    pool: Pool, systems: Sequence[System], load: Workload, count: int, max_seconds: float, tell: Callable[[str], None]
) -> list[Row]:
    """The rows of one workload, without what they share with those of others."""
    by_name = {system.name: system for system in systems if asked(system, load)}
    timings = measure(
        lambda name: ask(pool, by_name[name], load),
        list(by_name),
        {name: pool.predicted(name, load.tokens) for name in by_name},
        count=count,
        max_seconds=max_seconds,
        progress=tell,
    )
    return [row(system, load, timings, pool) for system in by_name.values()]


def row(system: System, load: Workload, timings: Mapping[str, Timing], pool: Pool) -> Row:
    """What one system did on one workload."""
    timing, base, truth = timings[system.name], timings.get(BASE), timings.get(TRUTH)
    times = ratio(timing, base) if base else None
    differ = None if system.reads_text or truth is None else agreement(timing.answers, truth.answers)
    found = timing.row(pool.loaded(system.name), len(load.sequences))
    return found | {
        "workload": load.name,
        "tokens": load.tokens,
        "system": system.name,
        "batch": system.batch,
        "reads_text": system.reads_text,
        "note": note(system),
        "tokens_per_second": round(load.tokens / found["seconds"]["p50"], 2) if found["seconds"] else None,
        "ratio": None if times is None else round(times, 4),
        "agreement": None if differ is None else round(differ, 6),
    }


def note(system: System) -> str:
    """What must be known of a system's figures."""
    restricted = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("ATEN_CPU_CAPABILITY")
    return "; ".join(filter(None, (system.note, restricted and system.backend in UNRESTRICTED and NOT_RESTRICTED)))


def agreement(answers: Sequence[Sequence[float]] | None, truth: Sequence[Sequence[float]] | None) -> float | None:
    """The largest difference of the logits, each text's centred by their mean; None if one side is missing."""
    if not answers or not truth:
        return None
    ours, theirs = (np.asarray(each, dtype=np.float64) for each in (answers, truth))
    if ours.shape != theirs.shape:
        return None
    difference = (ours - ours.mean(-1, keepdims=True)) - (theirs - theirs.mean(-1, keepdims=True))
    return float(np.abs(difference).max())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint folder, with its tokenizer")
    parser.add_argument("--converted", type=Path, help="folder that convert.py wrote the peers' formats to")
    parser.add_argument("--artifact", type=Path, help="the model as a quantized artifact, for slant-hqq4-packed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one to warm up")
    parser.add_argument("--max-seconds", type=float, default=120, help="for a system on a workload, over all rounds")
    parser.add_argument(
        "--systems", default="*", help='names or patterns such as "slant-*,llama-bf16-1"; all by default'
    )
    parser.add_argument("--workloads", default="*", help="likewise, such as 1x*,posts")
    parser.add_argument("--limit", type=float, help="tokens/s that this machine's arithmetic allows, for the plot")
    parser.add_argument(
        "--reserve", type=float, help="GB that must be free to start a system; by default 4 checkpoints"
    )
    parser.add_argument("--run", help="the run (as its rows name it) that the rows belong to, if not to a new one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        type=lambda text: tuple(text.split("=", 1)),
        metavar="BACKEND=PATH",
        help="interpreter that has a backend's package; this one by default",
    )
    options = parser.parse_args(argv)
    if not (options.model / "tokenizer.json").exists():
        parser.error(f"{options.model} has no tokenizer.json, from which the prompt's tokens are made; put one there.")
    if any(len(pair) != 2 for pair in options.python):
        parser.error("--python takes BACKEND=PATH, such as llama=venv/bin/python.")
    return options


if __name__ == "__main__":
    main()
