"""A slant index of phrases, after Gentzkow and Shapiro (2010), "What Drives Media Slant?", Econometrica 78(1).

Phrases of one or two words are counted per party; those whose use differs most by Pearson's chi-square are kept. A
phrase weighs w = (r - d) / (r + d), r and d being its rates per word in Republican and Democratic speech: -1 is said by
Democrats only, +1 by Republicans only. The index of a text is the sum of the weights of its phrases over its number of
words. The paper's regression on the members' voting scores is left out: speeches carry no such score.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from texts import DEMOCRAT, REPUBLICAN, Speech

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
LONGEST = 2  # words in a phrase

# Candidates' names tell the year and the occasion more than the leaning, and would make the index useless elsewhere.
NAMES = frozenset(
    ["obama", "barack", "michelle", "biden", "joe", "clinton", "hillary", "donald", "trump", "mitt", "romney", "ann"]
    + ["paul", "ryan", "pence", "kaine"]
)


@dataclass(frozen=True)
class PhraseIndex:
    """Phrases with their weights in [-1, 1]; a positive index leans Republican."""

    weights: dict[str, float]

    @classmethod
    def fit(cls, speeches: Sequence[Speech], size: int, fewest_families: int = 6, common: int = 100) -> PhraseIndex:
        """Keep the ``size`` phrases of the largest chi-square among the two parties' speeches.

        A phrase counts only if ``fewest_families`` of the speakers' families use it (or it tells who speaks), and if
        one of its words is not among the ``common`` most frequent words (or it tells nothing of politics).
        """
        counts = {DEMOCRAT: Counter[str](), REPUBLICAN: Counter[str]()}
        words = {DEMOCRAT: 0, REPUBLICAN: 0}
        families: dict[str, set[str]] = defaultdict(set)
        for speech in speeches:
            if speech.party in counts:
                said = [word for word, _ in _words(speech.text)]
                words[speech.party] += len(said)
                for phrase in (phrase for i in range(len(said)) for phrase in _ending_at(said, i)):
                    counts[speech.party][phrase] += 1
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
        """Per word of the text: where it ends, in characters, and the weight of the phrases that end with it.

        Both arrays are ``[words]``; the index of the first n words is the mean of the first n weights.
        """
        found = list(_words(text))
        said = [word for word, _ in found]
        weights = [sum(self.weights.get(phrase, 0.0) for phrase in _ending_at(said, i)) for i in range(len(said))]
        return np.array([end for _, end in found], dtype=np.int64), np.array(weights, dtype=np.float64)

    def score(self, text: str) -> float:
        """The index of a text in weight per word, 0.0 for a text without words."""
        weights = self.marks(text)[1]
        return float(weights.mean()) if len(weights) else 0.0


def _words(text: str) -> Iterator[tuple[str, int]]:
    for match in WORD.finditer(text):
        yield match.group().lower().replace("’", "'"), match.end()


def _ending_at(words: Sequence[str], i: int) -> Iterator[str]:
    for n in range(1, min(LONGEST, i + 1) + 1):
        yield " ".join(words[i + 1 - n : i + 1])
