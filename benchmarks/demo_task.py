"""The task of the demo checkpoint as CSV files, for training, for baselines and for the card.

    python benchmarks/demo_task.py --output FOLDER

Columns: text, label, party, family. ``label`` is the quintile, 0 to 4, of a phrase index that was fitted on the
training speakers; ``party`` is who really spoke, and ``family`` the speaker's last name, the cluster of every interval.
No family is on both sides.

    train.csv        passages of 1 to 12 sentences drawn from the training speakers, all different, many overlapping
    test.csv         the held-out speakers' speeches as successive passages of 2 to 6 sentences, each used once
    long.csv         the same speeches as passages of 12 sentences
    party-train.csv, party-test.csv    the rows of train.csv and test.csv whose speaker is of one of the two parties
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from texts import DEMOCRAT, REPUBLICAN, Speech, sentences, speeches, split

SEED = 2010
LABELS = 5
PHRASES = 500
PASSAGES_CUT = 20_000  # training passages whose index gives the quintiles
PASSAGES_TRAINED = 10_000
WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
# Candidates' names tell the year and the occasion more than the leaning, and would make the index useless elsewhere.
NAMES = frozenset(
    ["obama", "barack", "michelle", "biden", "joe", "clinton", "hillary", "donald", "trump", "mitt", "romney", "ann"]
    + ["paul", "ryan", "pence", "kaine"]
)


class PhraseIndex(NamedTuple):
    """A slant index of phrases, after Gentzkow and Shapiro (2010), "What Drives Media Slant?", Econometrica 78(1).

    ``weights`` are of phrases of one or two words. A phrase weighs w = (r - d) / (r + d), r and d being its rates per
    word in Republican and Democratic speech: -1 is said by Democrats only, +1 by Republicans only. The paper's
    regression on the members' voting scores is left out: speeches carry no such score.
    """

    weights: dict[str, float]

    @classmethod
    def fit(cls, speeches: Sequence[Speech], size: int, fewest_families: int = 6, common: int = 100) -> PhraseIndex:
        """Keep the ``size`` phrases whose use differs most between the parties, by Pearson's chi-square.

        A phrase counts only if ``fewest_families`` of the speakers' families use it (or it tells who speaks), and if
        one of its words is not among the ``common`` most frequent words (or it tells nothing of politics).
        """
        counts = {DEMOCRAT: Counter[str](), REPUBLICAN: Counter[str]()}
        words = {DEMOCRAT: 0, REPUBLICAN: 0}
        families: dict[str, set[str]] = defaultdict(set)
        for speech in speeches:
            if speech.party in counts:
                for phrases, _ in _phrases(speech.text):
                    words[speech.party] += 1
                    counts[speech.party].update(phrases)
                    for phrase in phrases:
                        families[phrase].add(speech.family)
        total = counts[DEMOCRAT] + counts[REPUBLICAN]
        frequent = {word for word, _ in Counter({w: n for w, n in total.items() if " " not in w}).most_common(common)}

        strength, weights = {}, {}
        for phrase, users in families.items():
            parts = {part.removesuffix("'s") for part in phrase.split()}
            if len(users) < fewest_families or parts & NAMES or parts <= frequent:
                continue
            d, r = counts[DEMOCRAT][phrase], counts[REPUBLICAN][phrase]
            not_d, not_r = words[DEMOCRAT] - d, words[REPUBLICAN] - r
            expected = (d + r) * (d + not_d) * (r + not_r) * (not_d + not_r)
            strength[phrase] = (r * not_d - d * not_r) ** 2 * (words[DEMOCRAT] + words[REPUBLICAN]) / expected
            rate_d, rate_r = d / words[DEMOCRAT], r / words[REPUBLICAN]
            weights[phrase] = (rate_r - rate_d) / (rate_r + rate_d)
        kept = sorted(strength, key=lambda phrase: (-strength[phrase], phrase))[:size]
        return cls({phrase: weights[phrase] for phrase in kept})

    def marks(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Per word of the text: where it ends, in characters, and the weight of the phrases that end with it."""
        found = [(end, sum(self.weights.get(phrase, 0.0) for phrase in phrases)) for phrases, end in _phrases(text)]
        return np.array([end for end, _ in found], np.int64), np.array([weight for _, weight in found], np.float64)

    def score(self, text: str) -> float:
        """The index of a text in weight per word, 0.0 for a text without words."""
        weights = self.marks(text)[1]
        return float(weights.mean()) if len(weights) else 0.0


def _phrases(text: str) -> Iterator[tuple[list[str], int]]:
    """Per word of the text: the phrases of one and two words that end with it, and where it ends."""
    before = ""
    for match in WORD.finditer(text):
        word = match.group().lower().replace("’", "'")
        yield [word, f"{before} {word}"] if before else [word], match.end()
        before = word


class Passage(NamedTuple):
    """A row of the CSV files: a text, its label by the index, and its speaker's party and family."""

    text: str
    label: int
    party: str
    family: str


class Task(NamedTuple):
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


def write_all(task: Task, folder: Path, count: int = PASSAGES_TRAINED) -> dict[str, list[Passage]]:
    """Write the five files into ``folder``, made if need be; the passages by file name."""
    train, test = task.train(count), task.test(2, 6)
    files = {
        "train.csv": train,
        "test.csv": test,
        "long.csv": task.test(12, 12),
        "party-train.csv": [passage for passage in train if passage.party in (DEMOCRAT, REPUBLICAN)],
        "party-test.csv": [passage for passage in test if passage.party in (DEMOCRAT, REPUBLICAN)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, passages in files.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([Passage._fields, *passages])
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
