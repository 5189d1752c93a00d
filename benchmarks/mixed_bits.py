"""Bits chosen by sensitivity against the same bits everywhere, on the demo checkpoint and on texts not calibrated with.

Calibration: every second bundled passage, and sentences of the speakers that the demo was trained on. Held out: the
other passages, and sentences of speakers of whom nothing was seen. For each uniform recipe, all matrices at 8, 4, 3 or
2 bits in groups of 32, 64 or 128 or one of the named recipes, bits are chosen for at most its bytes, once among its own
group size only and once among all. One row of the result file is one recipe; the last run is drawn.

Run ``python benchmarks/mixed_bits.py`` (a few minutes).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

import pictures
from harness.rows import RESULTS, Row, append, environment
from harness.tables import field, rich_table
from slant.artifact.recipe import NAMED, Grid, Recipe
from slant.demo import FOLDER, passages
from slant.model.config import ModelConfig
from slant.options import LoadOptions
from slant.quantize.gauge import Gauge, Sensitivity, groups
from slant.quantize.replay import Replay
from slant.quantize.sensitivity import Chooser
from slant_kernels.quantized import BITS, GROUP_SIZES
from texts import Speech, sentences, speeches, split

FEWEST_WORDS = 12
SEED = 3


def drawn(from_: Sequence[Speech], number: int, rng: np.random.Generator) -> list[str]:
    found = sorted({s for speech in from_ for s in sentences(speech.text) if len(s.split()) >= FEWEST_WORDS})
    return [found[i] for i in rng.choice(len(found), min(number, len(found)), replace=False)]


def uniform(config: ModelConfig) -> Iterator[tuple[str, str, int, Recipe]]:
    """Kind, name, group size and recipe."""
    for bits in BITS:
        for size in GROUP_SIZES:
            yield (
                "uniform",
                f"{bits} bits, groups of {size}",
                size,
                Recipe(dict.fromkeys(config.quantizable, Grid(bits, size))),
            )
    for name in NAMED:
        yield "named", name, 64, config.recipe(NAMED[name])


class Bench:
    """A gauge on the calibration texts and, for the same exchanged model, the held-out texts."""

    def __init__(self, calibration: Sequence[str], held_out: Sequence[str]) -> None:
        self.gauge = Gauge.load(FOLDER, calibration, LoadOptions(weights="fp32", device="cpu"))
        self.held_out = Replay(self.gauge.runner, [text.ids for text in self.gauge.prompt.encode(held_out)])
        self.groups = groups(self.gauge.checkpoint.config)

    def sensitivities(self) -> list[Sensitivity]:
        grids = [None, *(Grid(bits, size) for bits in BITS for size in GROUP_SIZES)]
        return [self.gauge.measure([names], grids)[0] for names in track(self.groups, "measuring")]

    def row(self, recipe: Recipe) -> dict[str, Any]:
        calibration_kl = self.gauge.kl(recipe)
        p, q = self.held_out.reference.double(), self.held_out.logits(self.gauge.exchange.first).double()
        kl = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        return {
            "calibration_kl": float(f"{calibration_kl:.4g}"),
            "held_out_kl": float(f"{float(kl.mean()):.4g}"),
            "held_out_kl_p99": float(f"{float(kl.quantile(0.99)):.4g}"),
            "held_out_flips": int((p.argmax(-1) != q.argmax(-1)).sum()),
        }


def only(sensitivities: Sequence[Sensitivity], size: int) -> list[Sensitivity]:
    """With one group size, and None, to choose from."""
    taken = [i for i, grid in enumerate(sensitivities[0].grids) if grid is None or grid.group_size == size]
    return [
        Sensitivity(s.names, tuple(s.grids[i] for i in taken), tuple(s.options[i] for i in taken))
        for s in sensitivities
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=int, default=72, help="sentences beside the passages")
    parser.add_argument("--held-out", type=int, default=372, help="sentences beside the passages")
    options = parser.parse_args()
    torch.set_num_threads(1)

    rng = np.random.default_rng(SEED)
    seen, unseen = split(speeches(), rng)
    bundled = [passage["text"] for passage in passages()]
    calibration = bundled[::2] + drawn(seen, options.calibration, rng)
    held_out = bundled[1::2] + drawn(unseen, options.held_out, rng)
    bench = Bench(calibration, held_out)
    found = bench.sensitivities()
    fixed = bench.gauge.fixed_bytes
    choosers = {"all group sizes": Chooser(found, fixed)}
    choosers |= {f"groups of {size}": Chooser(only(found, size), fixed) for size in GROUP_SIZES}

    run = environment() | {"model": "demo", "calibration_texts": len(calibration), "held_out_texts": len(held_out)}
    rows = []
    for kind, name, size, recipe in track(list(uniform(bench.gauge.checkpoint.config)), "comparing"):
        nbytes = sum(s.options[s.grids.index(recipe.grid(s.names[0]))].size for s in found)
        rows.append({"kind": kind, "against": name, "matrix_bytes": nbytes} | bench.row(recipe))
        for kind, key in (("own group size", f"groups of {size}"), ("all group sizes", "all group sizes")):
            chooser = choosers[key]
            choice = chooser.within_bytes(fixed + nbytes)
            row = {"kind": kind, "against": name, "matrix_bytes": choice.size} | bench.row(chooser.recipe(choice))
            rows.append(row | {"predicted_kl": float(f"{choice.cost:.4g}")})
    rows = [run | {"fixed_bytes": fixed} | row for row in rows]
    for row in rows:
        append("mixed_bits", row)
    columns: dict[str, Any] = {"recipe": name_of, "bytes": field("matrix_bytes", ",")}
    keys = {"KL calibration": "calibration_kl", "predicted": "predicted_kl", "KL held out": "held_out_kl"}
    columns |= {title: field(key, ".2e") for title, key in keys.items()} | {"flips": field("held_out_flips")}
    Console(width=110).print(rich_table(rows, columns))
    pictures.mixed_bits(rows, RESULTS / "mixed_bits.svg")


def name_of(row: Row) -> str:
    return row["against"] if row["kind"] in ("uniform", "named") else f"  chosen, {row['kind']}"


if __name__ == "__main__":
    main()
