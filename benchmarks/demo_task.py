"""The task of the demo checkpoint as CSV files, for training, for baselines and for the card.

    python benchmarks/demo_task.py --output FOLDER

Columns: text, label, party, family. ``label`` is the quintile, 0 to 4, of a phrase index (phrases.py) that was fitted
on the training speakers; ``party`` is who really spoke, and ``family`` the speaker's last name, the cluster of every
interval. No family is on both sides.

    train.csv        passages of 1 to 12 sentences drawn from the training speakers, all different, many overlapping
    test.csv         the held-out speakers' speeches as successive passages of 2 to 6 sentences, each used once
    long.csv         the same speeches as passages of 12 sentences
    party-train.csv, party-test.csv    the rows of train.csv and test.csv whose speaker is of one of the two parties
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phrases import PhraseIndex
from texts import DEMOCRAT, REPUBLICAN, Speech, sentences, speeches, split

SEED = 2010
LABELS = 5
PHRASES = 500
PASSAGES_CUT = 20_000  # training passages whose index gives the quintiles
PASSAGES_TRAINED = 10_000


@dataclass(frozen=True)
class Passage:
    """A row of the CSV files: a text, its label by the index, and its speaker's party and family."""

    text: str
    label: int
    party: str
    family: str


@dataclass(frozen=True)
class Task:
    """Speeches of both sides, the index of the training side and ``cuts`` float64 ``[4]`` between the five labels."""

    training: list[Speech]
    held_out: list[Speech]
    index: PhraseIndex
    cuts: NDArray[np.float64]

    @classmethod
    def make(cls, seed: int = SEED) -> Task:
        """The split, the index and the quintiles of training passages; raises TextsError if the speeches are absent."""
        rng = np.random.default_rng(seed)
        training, held_out = split(speeches(), rng)
        index = PhraseIndex.fit(training, PHRASES)
        drawn = draw(training, rng)
        scores = [index.score(next(drawn)[1]) for _ in range(PASSAGES_CUT)]
        return cls(training, held_out, index, np.quantile(scores, np.arange(1, LABELS) / LABELS))

    def passage(self, speech: Speech, text: str) -> Passage:
        """``text``, a part of ``speech``, with its label."""
        return Passage(text, int(np.digitize(self.index.score(text), self.cuts)), speech.party, speech.family)

    def train(self, count: int = PASSAGES_TRAINED, seed: int = SEED + 1) -> list[Passage]:
        """``count`` different passages of the training speakers."""
        passages: dict[str, Passage] = {}
        for speech, text in draw(self.training, np.random.default_rng(seed)):
            if len(passages) == count:
                break
            passages.setdefault(text, self.passage(speech, text))
        return list(passages.values())

    def test(self, fewest: int, most: int, seed: int = SEED) -> list[Passage]:
        """Every held-out speech as successive passages of ``fewest`` to ``most`` sentences; shorter rests are left."""
        rng = np.random.default_rng(seed)
        passages = []
        for speech in self.held_out:
            rest = sentences(speech.text)
            while len(rest) >= fewest:
                size = int(rng.integers(fewest, most + 1))
                passages.append(self.passage(speech, " ".join(rest[:size])))
                rest = rest[size:]
        return passages


def draw(said: Sequence[Speech], rng: np.random.Generator) -> Iterator[tuple[Speech, str]]:
    """Random runs of sentences, mostly 2 to 6, sometimes 1 to 12, of speeches weighted by their length, without end."""
    cut = [sentences(speech.text) for speech in said]
    lengths = np.array([len(speech) for speech in cut])
    shares = lengths / lengths.sum()
    while True:
        size = int(rng.integers(1, 13)) if rng.random() < 0.25 else int(rng.integers(2, 7))
        i = int(rng.choice(len(cut), p=shares))
        start = int(rng.integers(0, max(1, lengths[i] - size + 1)))
        yield said[i], ("\n" if rng.random() < 0.1 else " ").join(cut[i][start : start + size])


def partisan(passages: Sequence[Passage]) -> list[Passage]:
    """The passages of the two parties' speakers: without the debates' moderators."""
    return [passage for passage in passages if passage.party in (DEMOCRAT, REPUBLICAN)]


def write(path: Path, passages: Sequence[Passage]) -> None:
    """``passages`` as a UTF-8 CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Passage))
        writer.writerows(map(astuple, passages))


def read(path: Path) -> list[Passage]:
    """The passages of a file that ``write`` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Passage(row["text"], int(row["label"]), row["party"], row["family"]) for row in csv.DictReader(file)]


def write_all(task: Task, folder: Path, count: int = PASSAGES_TRAINED) -> dict[str, list[Passage]]:
    """Write the five files into ``folder``, made if need be; the passages by file name."""
    train, test = task.train(count), task.test(2, 6)
    files = {
        "train.csv": train,
        "test.csv": test,
        "long.csv": task.test(12, 12),
        "party-train.csv": partisan(train),
        "party-test.csv": partisan(test),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, passages in files.items():
        write(folder / name, passages)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo checkpoint's task as CSV files.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the files")
    parser.add_argument("--passages", type=int, default=PASSAGES_TRAINED, help="training passages")
    arguments = parser.parse_args()
    for name, passages in write_all(Task.make(), arguments.output, arguments.passages).items():
        labels = sorted(Counter(passage.label for passage in passages).items())
        parties = Counter(passage.party for passage in passages)
        families = len({passage.family for passage in passages})
        print(f"{name}: {len(passages)} passages of {families} families, {dict(labels)}, {dict(parties)}")


if __name__ == "__main__":
    main()
