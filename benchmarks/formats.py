"""Every weight format of one checkpoint on this CPU: loading, memory, cold start, speed by length.

    python benchmarks/random_model.py 4b FOLDER
    python benchmarks/formats.py FOLDER --artifacts FOLDER --formats "bf16,int8,hqq4" --minutes 15
    python benchmarks/formats.py engine/slant/demo --drift --formats "*,fp8" --sets full,avx512,avx2

Each format runs in a process of its own (``one_format.py``), one after the other, in the order of ``--formats``; within
a process the workloads take turns. A quantized format is written by ``slant quantize`` first, if its artifact is not
there yet. ``--sets`` repeats all with a restricted instruction set. A workload that does not fit the remaining time is
skipped, and the row says so. Random weights have no drift worth a figure, so ``--drift`` is a run of its own: what
each format is off fp32 on the bundled passages, as ``slant drift`` measures it (``one_drift.py``).

Rows go to results/formats.jsonl: kind "quantize", "load" (with the peak of the whole process), "score" or "drift".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Any

from rich.console import Console

from harness.rows import BENCHMARKS, RESULTS, Row, append, environment, named
from slant.artifact import MANIFEST
from slant.artifact.recipe import NAMED, QUANTIZING
from slant.options import WEIGHTS

RESULT, REFERENCE = "formats", "fp32"
# The fastest and what they are compared with first. fp8 on a CPU is for checks only, and measured if it is named.
FIRST, LAST = ("bf16", "int8", "w4a8", "hqq4", "fp32"), ("auto", "auto-8bit", "auto-4bit", "fp8")
FORMATS = sorted(WEIGHTS, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST) + (name in LAST))
SETS = {
    "full": {},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
"""What restricts the instruction set: oneDNN's variable and torch's, to which slant keeps too."""
WORKLOADS = ("1x16", "1x128", "1x900", "posts", "1x8192")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console, deadline = Console(), time.monotonic() + 60 * options.minutes
    formats = [
        name for part in options.formats.split(",") for name in FORMATS if name not in LAST and named(name, part)
    ]
    formats += [name for name in LAST if name in options.formats.split(",")]
    formats = [name for name in formats if not (options.drift and name in (REFERENCE, "auto"))]
    pairs = [(each, name) for each in options.sets.split(",") for name in dict.fromkeys(formats)]
    run = datetime.now(UTC).isoformat(timespec="seconds")
    rows = []
    for number, (instructions, name) in enumerate(pairs):
        share = (deadline - time.monotonic()) / (len(pairs) - number)
        for row in rows_of(name, instructions, share, options):
            rows.append({"run": run, "model": options.model.name, "set": instructions, "format": name} | row)
            append(RESULT, rows[-1], options.results)
            console.print(f"{instructions} {name}: {said(row)}", markup=False)
    return int(not any(row["status"] == "ok" for row in rows))


def rows_of(name: str, instructions: str, seconds: float, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one format under one instruction set, in about so many seconds."""
    variables, model, weights = os.environ | SETS[instructions], options.model, name
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    start = time.monotonic()
    request = {"model": str(model), "weights": weights, "threads": options.threads}
    if options.drift:
        yield from child("one_drift.py", request | {"reference": REFERENCE}, variables, seconds + 120)
        return
    if name in QUANTIZING:
        bits = QUANTIZING[name]
        model, weights = options.artifacts / f"{options.model.name}-hqq{bits}", "auto" if name in NAMED else name
        if not (model / MANIFEST).exists():
            options.artifacts.mkdir(parents=True, exist_ok=True)
            written = quantized(bits, options.model, model, variables, options.threads)
            yield written
            if written["status"] != "ok":
                return
    request |= {"model": str(model), "weights": weights}
    request |= {"workloads": options.workloads.split(","), "rounds": options.rounds}
    seconds = max(options.least, seconds - (time.monotonic() - start))
    request |= {"seconds": seconds, "started": time.time()}
    yield from child("one_format.py", request, variables, 2 * seconds + 120)


def quantized(bits: int, model: Path, target: Path, variables: dict[str, str], threads: int | None) -> Row:
    """Write the artifact by the command, and say how long that took."""
    command = [sys.executable, "-c", "from slant.cli.start import main; main()", "quantize", str(model), str(target)]
    command += ["--bits", str(bits), "--device", "cpu", "--force"]
    if threads:
        variables = variables | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    status = "ok" if done.returncode == 0 else f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:300]}"
    size = sum(path.stat().st_size for path in target.glob("*.safetensors")) if target.exists() else None
    about = environment() | {"kind": "quantize", "format": f"hqq{bits}"}
    return about | {"seconds": {"p50": round(took, 3)}, "bytes": size, "status": status}


def child(program: str, request: dict[str, Any], variables: dict[str, str], timeout: float) -> Iterator[Row]:
    """The rows that a program of this folder prints, and one that says why it ended if it did not end well."""
    command = [sys.executable, str(BENCHMARKS / program), json.dumps(request)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=variables, **pipes) as process:
        late = Timer(timeout, process.kill)
        late.start()
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        last = (process.stderr.read().strip().splitlines() or ["it said nothing"])[-1]
        late.cancel()
    if process.returncode:
        yield environment() | {"kind": "end", "status": f"failed with code {process.returncode}: {last[:300]}"}


def said(row: Row) -> str:
    """A row in a few words."""
    if row["status"] != "ok":
        return f"{row['kind']} {row.get('workload', '')} {row['status']}"
    if row["kind"] == "load":
        return f"loaded in {row['load_s']:.1f} s, first answer after {row['cold_s']:.1f} s, {row['tier']}"
    if row["kind"] == "drift":
        return f"KL {row['kl']:.2g}, |Δp| p99 {row['delta_p99']:.3f}, {row['flips']} of {row['texts']} labels flip"
    what = row["kind"] if row["kind"] == "quantize" else row["workload"]
    return f"{what} {row['seconds']['p50']:.3g} s"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint folder, with its tokenizer")
    parser.add_argument("--artifacts", type=Path, help="folder for quantized models; by default beside the checkpoint")
    parser.add_argument("--formats", default="bf16,int8,hqq4,*", help="names or patterns, the most important first")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="1xTOKENS (after the prefix), and posts: 64")
    parser.add_argument("--sets", default="full", help=f"of {', '.join(SETS)}, with commas")
    parser.add_argument("--minutes", type=float, default=15, help="for everything but quantizing")
    parser.add_argument("--least", type=float, default=20, help="seconds that a format gets in any case, to answer in")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after one to warm up")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--drift", action="store_true", help="measure the drift on the bundled passages, nothing else")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args(argv)
    options.artifacts = options.artifacts or options.model.parent
    if not (options.model / "tokenizer.json").exists():
        parser.error(f"{options.model} has no tokenizer.json; random_model.py writes one.")
    if unknown := set(options.sets.split(",")) - SETS.keys():
        parser.error(f"--sets has {', '.join(sorted(unknown))}; it takes {', '.join(SETS)}.")
    return options


if __name__ == "__main__":
    sys.exit(main())
