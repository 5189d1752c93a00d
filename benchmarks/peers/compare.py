"""slant and its peers side by side: the same model, texts and threads, in turn, each in a process of its own.

    python benchmarks/peers/compare.py MODEL --converted FOLDER --python llama=PATH --python onnx=PATH

MODEL is a checkpoint folder with a tokenizer, FOLDER what ``convert.py`` made of it. Every system gets the same token
ids, so tokenization is in no figure, except for those that read text. All sequences begin with the prompt's prefix,
whose state slant keeps: that is part of what it offers; ``slant-bf16-whole`` goes without. A system that batches is
asked for workloads of several texts only: one text alone is the same for it as for its twin without batches.

All systems stay loaded, so that they can take turns. Where they do not fit the memory together, call once for some and
again for others with ``--run``, each time with ``slant-bf16`` and ``transformers-fp32-1``, to which the figures refer.

One row of results/peers.jsonl is one workload on one system; where it was skipped or failed the row says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import Progress

from environment import RESULTS, append, environment, percentiles
from peers.measure import Timing, agreement, measure, ratio
from peers.running import Running
from peers.systems import BASE, SYSTEMS, TRUTH, System
from peers.table import table
from peers.workloads import Workload, calibration, workloads
from slant.prompt.prompt import Prompt

RESULT = "peers"
MAX_TOKENS = 8192
RESERVE = 4  # times the checkpoint's bytes: a float32 copy beside the mapped file is more than three times


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    console = Console()
    prompt = Prompt.load(options.model, max_tokens=MAX_TOKENS)
    loads = workloads(prompt, lambda name: chosen(name, options.workloads))
    systems = [each for each in SYSTEMS if chosen(each.name, options.systems) and any(asked(each, x) for x in loads)]
    if not loads or not systems:
        raise SystemExit("there is nothing to measure: --systems and --workloads name nothing that goes together.")
    head = environment() | {
        "run": options.run or datetime.now(UTC).isoformat(timespec="seconds"),
        "model": options.model.name,
        "threads": options.threads,
        "limit_tokens_per_second": options.limit,
        "prefix_tokens": len(prompt.prefix_ids),
    }
    rows = []
    weights = sum(path.stat().st_size for path in options.model.glob("*.safetensors"))
    reserve = RESERVE * weights if options.reserve is None else options.reserve * 1e9
    with closing(Running(dict(options.python), options.threads, options.max_seconds * 3 + 60, reserve)) as running:
        for system in systems:
            start(running, system, prompt, loads, options, console)
        seconds = estimate(running, systems, loads, options.rounds, options.max_seconds)
        console.print(f"run {head['run']}: {len(loads)} workloads take at most about {seconds / 60:.0f} minutes.")
        with Progress(console=console, transient=True) as progress:
            for load in progress.track(loads):
                for row in compare(running, systems, load, options.rounds, options.max_seconds, progress):
                    rows.append(head | row)
                    append(RESULT, rows[-1], options.results)
    console.print(table(rows), markup=False, soft_wrap=True)


def start(
    running: Running,
    system: System,
    prompt: Prompt,
    loads: Sequence[Workload],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Load a system and let it answer twice, which warms it up and gives its predictions a beginning."""
    path = system.path(options.model, options.artifact, options.converted)
    if path is None:
        running.failures[system.name] = f"its model, {system.model}, was not given or not made"
    else:
        warm = calibration(prompt)
        longest = [max(map(len, load.sequences)) for load in loads if asked(system, load) or not system.sized]
        settings = {
            **system.options,
            "model": path,
            "threads": options.threads,
            "answers": list(prompt.answer_ids),
            "prefix": list(prompt.prefix_ids),
            "max_tokens": max([*longest, warm.tokens]),
        }
        with console.status(f"loading {system.name}"):
            running.start(system, settings)
            running.warm(system, warm)
    if loaded := running.loaded(system):
        console.print(f"{system.name}: {loaded.load_s:.1f} s, {(loaded.rss or 0) / 1e9:.2f} GB", markup=False)
    else:
        console.print(f"{system.name}: {running.failures[system.name]}", markup=False)


def asked(system: System, load: Workload) -> bool:
    """Whether a workload says anything about a system."""
    if system.reads_text:
        return load.texts is not None
    return len(load.sequences) > 1 or system.batch <= 1


def estimate(
    running: Running, systems: Sequence[System], loads: Sequence[Workload], rounds: int, max_seconds: float
) -> float:
    """Seconds for all workloads, by what is known before the first; an upper bound where longer texts are no dearer."""
    total = 0.0
    for system in systems:
        once = [running.predicted(system, load) for load in loads if asked(system, load)]
        total += sum(min(s * (rounds + 1), max(max_seconds, s)) for s in once if s is not None and s <= max_seconds)
    return total


def compare(
    running: Running,
    systems: Sequence[System],
    load: Workload,
    rounds: int,
    max_seconds: float,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The rows of one workload, without what they share with those of others."""
    by_name = {system.name: system for system in systems if asked(system, load)}
    task = progress.add_task(load.name, total=None) if progress else None

    def tell(name: str) -> None:
        if progress and task is not None:
            progress.update(task, description=f"{load.name} {name}")

    timings = measure(
        lambda name: running.ask(by_name[name], load),
        list(by_name),
        {name: running.predicted(system, load) for name, system in by_name.items()},
        rounds=rounds,
        max_seconds=max_seconds,
        progress=tell,
    )
    if progress and task is not None:
        progress.remove_task(task)
    return [row(system, load, timings, running) for system in by_name.values()]


def row(system: System, load: Workload, timings: Mapping[str, Timing], running: Running) -> dict[str, Any]:
    """What one system did on one workload; figures are None where it was not measured."""
    timing, loaded = timings[system.name], running.loaded(system)
    seconds = percentiles(list(timing.measured.values())) if timing.runs else None
    base, truth = timings.get(BASE), timings.get(TRUTH)
    times = ratio(timing, base) if base else None
    differ = None if system.reads_text or truth is None else agreement(timing.answers, truth.answers)
    return {
        "workload": load.name,
        "texts": len(load.sequences),
        "tokens": load.tokens,
        "system": system.name,
        "batch": system.batch,
        "reads_text": system.reads_text,
        "note": system.note,
        "versions": loaded.versions if loaded else None,
        "status": timing.status,
        "rounds": len(timing.measured),
        "seconds": seconds,
        "tokens_per_second": round(load.tokens / seconds["p50"], 2) if seconds else None,
        "texts_per_second": round(len(load.sequences) / seconds["p50"], 4) if seconds else None,
        "ratio": None if times is None else round(times, 4),
        "agreement": None if differ is None else round(differ, 6),
        "peak_rss": timing.peak_rss,
        "rss_loaded": loaded.rss if loaded else None,
        "load_peak_rss": loaded.peak_rss if loaded else None,
        "load_s": round(loaded.load_s, 3) if loaded else None,
    }


def chosen(name: str, patterns: str | None) -> bool:
    """Whether a name is among patterns like "slant-*,llama-bf16-1"; all are if there are none."""
    return patterns is None or any(fnmatch(name, pattern) for pattern in patterns.split(","))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint folder, with its tokenizer")
    parser.add_argument("--converted", type=Path, help="folder that convert.py wrote the peers' formats to")
    parser.add_argument("--artifact", type=Path, help="the model as a quantized artifact, for slant-hqq4-packed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one to warm up")
    parser.add_argument("--max-seconds", type=float, default=120, help="for a system on a workload, over all rounds")
    parser.add_argument("--systems", help='names or patterns such as "slant-*,llama-bf16-1"; all by default')
    parser.add_argument("--workloads", help="likewise, such as 1x*,posts")
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
