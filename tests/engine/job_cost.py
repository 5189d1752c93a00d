"""What a job costs beside tokenizer and model: a script for ``test_job_cost``.

``python job_cost.py memory ROWS FOLDER``: the peak of the process in bytes, with the fake engine.
``python job_cost.py time ROWS TURNS FOLDER``: processor seconds of a job over those of ``Engine.stream`` alone with the
demo model, in turns; the smallest and the median ratio.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from fake import Engine as Fake

from peak import resident_bytes
from slant.tables.bulk import score_table


def memory(rows: int, folder: Path) -> None:
    source = folder / "in.csv"
    with source.open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{i},short row {i}\n" for i in range(rows))
    start = time.monotonic()
    summary = score_table(Fake(), source, folder / "out.csv", force=True)
    assert summary.rows == summary.figures["scored"] == rows
    print(resident_bytes("VmHWM"), f"{time.monotonic() - start:.1f} s")


def times(rows: int, turns: int, folder: Path) -> None:
    from slant import Engine
    from slant.demo import FOLDER

    texts = [f"The committee met on day {i} and agreed on point {i % 17} of the plan." for i in range(rows)]
    (folder / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    engine = Engine.load(FOLDER, threads=1)
    engine.warmup()
    list(engine.stream(texts[:256]))
    ratios = []
    for _ in range(turns):
        start, begun = time.process_time(), time.monotonic()
        list(engine.stream(texts))
        alone, waited = time.process_time() - start, time.monotonic() - begun
        start, begun = time.process_time(), time.monotonic()
        score_table(engine, folder / "in.txt", folder / "out.csv", force=True)
        job, job_waited = time.process_time() - start, time.monotonic() - begun
        ratios.append(job / alone)
        print(f"stream {alone:.2f} s ({waited:.2f}), job {job:.2f} s ({job_waited:.2f})", file=sys.stderr)
    print(min(ratios), statistics.median(ratios))


if sys.argv[1] == "memory":
    memory(int(sys.argv[2]), Path(sys.argv[3]))
else:
    times(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
