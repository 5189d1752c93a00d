"""What the peers answer for: token sequences that all begin with the prompt's prefix, and real texts where there are.

A workload ``1x128`` is one text of 128 tokens after the prefix, ``8x128`` eight. Their tokens are random; posts and
speeches are real texts in the whole prompt, or random tokens of their lengths where the speeches cannot be fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.workloads import MIXTURES, sequences
from slant.prompt.prompt import Prompt
from texts import Speech, TextsError, sentences, speeches

SINGLE = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # tokens after the prefix
MANY = ((8, 128), (32, 128), (8, 1024))
MIXED = {"posts": 32, "speeches": 24}
LONGEST_SPEECH = 4096  # tokens, prompt included: the workload is about many texts, not about the one longest
POST_SENTENCES = 3


@dataclass(frozen=True)
class Workload:
    """``sequences`` are whole prompts as token ids; ``texts`` the articles in them, None where ids are random."""

    name: str
    sequences: list[list[int]]
    texts: list[str] | None = None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


def workloads(prompt: Prompt, wanted: Callable[[str], bool] = lambda name: True) -> list[Workload]:
    """The wanted ones, in ascending order of their tokens; each is the same in every run."""
    shapes = {f"1x{length}": [length] for length in SINGLE} | {f"{n}x{length}": [length] * n for n, length in MANY}
    made = [Workload(name, random(prompt, lengths)) for name, lengths in shapes.items() if wanted(name)]
    made += [mixed(name, prompt) for name in MIXED if wanted(name)]
    return sorted(made, key=lambda workload: workload.tokens)


def random(prompt: Prompt, lengths: Sequence[int]) -> list[list[int]]:
    """The prefix and this many random tokens after it."""
    return [ids.tolist() for ids in sequences(prompt.prefix_ids, lengths, prompt.tokenizer.get_vocab_size())]


def warm_up(prompt: Prompt) -> Workload:
    """A short text that a system is asked for before anything is measured."""
    return Workload("warm-up", random(prompt, [128]), ["A text of a few words."])


def mixed(name: str, prompt: Prompt) -> Workload:
    """Posts or speeches."""
    try:
        said = speeches()
    except TextsError:
        around = len(prompt.encode(["a"])[0].ids) - len(prompt.prefix_ids)
        lengths = MIXTURES[name](np.random.default_rng(0), MIXED[name]) + around
        return Workload(name, random(prompt, np.minimum(lengths, LONGEST_SPEECH).tolist()))
    texts = posts(said) if name == "posts" else whole(said, prompt)
    return Workload(name, [each.ids.tolist() for each in prompt.encode(texts)], texts)


def posts(said: Sequence[Speech]) -> list[str]:
    """Runs of a few sentences, as long as posts are, each from another speech."""
    rng, chosen = np.random.default_rng(0), list[str]()
    for row in rng.permutation(len(said)):
        lines = sentences(said[row].text)
        size = int(rng.integers(1, POST_SENTENCES + 1))
        if len(lines) >= size:
            start = int(rng.integers(0, len(lines) - size + 1))
            chosen.append(" ".join(lines[start : start + size]))
    return chosen[: MIXED["posts"]]


def whole(said: Sequence[Speech], prompt: Prompt) -> list[str]:
    """Speeches of all lengths up to LONGEST_SPEECH: at equal steps of their order by length."""
    encoded = prompt.encode([speech.text for speech in said])
    fitting = sorted((len(each.ids), row) for row, each in enumerate(encoded) if len(each.ids) <= LONGEST_SPEECH)
    steps = np.linspace(0, len(fitting) - 1, MIXED["speeches"]).round().astype(int)
    return [said[fitting[step][1]].text for step in steps]
