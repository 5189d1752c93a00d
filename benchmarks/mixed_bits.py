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
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

import pictures
from harness.rows import RESULTS, Row, append, environment
from harness.tables import rich_table
from slant.artifact.recipe import NAMED, Grid, Recipe
from slant.demo import FOLDER, passages
from slant.model.config import ModelConfig
from slant.options import LoadOptions
from slant.quantize.gauge import Gauge, Sensitivity, groups
from slant.quantize.replay import Replay
from slant.quantize.sensitivity import Chooser
from slant_kernels.quantized import BITS, GROUP_SIZES
from texts import Speech, sentences, speeches, split

COLUMNS = {
    "kind": "kind",
    "recipe": "against",
    "bytes": "matrix_bytes:,",
    "KL calibration": "calibration_kl:.2e",
    "predicted": "predicted_kl:.2e",
    "KL held out": "held_out_kl:.2e",
    "flips": "held_out_flips",
}
FEWEST_WORDS = 12
SEED = 3


def drawn(from_: Sequence[Speech], number: int, rng: np.random.Generator) -> list[str]:
    found = sorted({s for speech in from_ for s in sentences(speech.text) if len(s.split()) >= FEWEST_WORDS})
    return [found[i] for i in rng.choice(len(found), min(number, len(found)), replace=False)]


def uniform(config: ModelConfig) -> Iterator[tuple[str, str, int, Recipe]]:
    """Kind, name, group size and recipe."""
    for bits, size in product(BITS, GROUP_SIZES):
        recipe = Recipe(dict.fromkeys(config.quantizable, Grid(bits, size)))
        yield "uniform", f"{bits} bits, groups of {size}", size, recipe
    for name in NAMED:
        yield "named", name, 64, config.recipe(NAMED[name])


def measured(gauge: Gauge, held_out: Replay, recipe: Recipe) -> Row:
    """A recipe on the calibration texts and, for the same exchanged model, on the held-out texts."""
    calibration_kl = gauge.kl(recipe)
    p, q = held_out.reference.double(), held_out.logits(gauge.exchange.first).double()
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
    gauge = Gauge.load(FOLDER, calibration, LoadOptions(weights="fp32", device="cpu"))
    unseen_texts = Replay(gauge.runner, [text.ids for text in gauge.prompt.encode(held_out)])
    config, fixed = gauge.checkpoint.config, gauge.fixed_bytes
    grids = [None, *(Grid(bits, size) for bits, size in product(BITS, GROUP_SIZES))]
    found = [gauge.measure([names], grids)[0] for names in track(groups(config), "measuring")]
    every = Chooser(found, fixed)
    own = {size: Chooser(only(found, size), fixed) for size in GROUP_SIZES}

    run = environment() | {"model": "demo", "calibration_texts": len(calibration), "held_out_texts": len(held_out)}
    rows = []
    for kind, name, size, recipe in track(list(uniform(config)), "comparing"):
        nbytes = sum(s.options[s.grids.index(recipe.grid(s.names[0]))].size for s in found)
        row = {"kind": kind, "against": name, "matrix_bytes": nbytes}
        rows.append(row | measured(gauge, unseen_texts, recipe))
        for chosen, chooser in (("own group size", own[size]), ("all group sizes", every)):
            choice = chooser.within_bytes(fixed + nbytes)
            row = {"kind": chosen, "against": name, "matrix_bytes": choice.size}
            row |= measured(gauge, unseen_texts, chooser.recipe(choice))
            rows.append(row | {"predicted_kl": float(f"{choice.cost:.4g}")})
    rows = [run | {"fixed_bytes": fixed} | row for row in rows]
    for row in rows:
        append("mixed_bits", row)
    Console(width=110).print(rich_table(rows, COLUMNS))
    pictures.mixed_bits(rows, RESULTS / "mixed_bits.svg")


if __name__ == "__main__":
    main()
