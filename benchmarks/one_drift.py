"""The drift of one weight format on the bundled passages: ``formats.py --drift`` runs it and reads its row from stdout.

    python benchmarks/one_drift.py '{"model": ..., "weights": ..., "reference": "fp32", "threads": null}'

A process of its own, since the instruction set is that of a process.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from harness.rows import environment
from slant.demo import FOLDER
from slant.evaluation.drift.measure import measure
from slant.options import LoadOptions
from slant.runtime.resolved import use_threads
from slant.tables.labelled import LabelledTexts


def main(request: dict[str, Any]) -> None:
    options = LoadOptions(device="cpu", weights=request["weights"], threads=request["threads"])
    use_threads(options.threads, everywhere=True)
    texts = LabelledTexts.read(FOLDER / "passages.jsonl")
    today = datetime.now(UTC).date().isoformat()
    report = measure(request["model"], texts, options, date=today, reference=request["reference"], method="resident")
    found, arithmetic = report.drift.overall.figures, report.certificate.arithmetic
    assert arithmetic is not None
    row = {"kind": "drift", "status": "ok", "reference": request["reference"], "dtype": arithmetic.dtype}
    row |= {"texts": found.rows, "flips": found.flips, "kl": found.kl.mean, "delta_p99": found.delta.p99}
    print(json.dumps(environment() | row), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
