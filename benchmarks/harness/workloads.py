"""What is measured: token sequences that begin with the prompt's prefix, and lengths as those of posts and speeches.

Token ids are random where only the time counts, since speed does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from slant.batching.batches import Ids

ANSWERS = (15, 16, 17, 18, 19)
PREFIX, SUFFIX = 30, 58  # tokens of the prompt around an article, with Qwen3.5's tokenizer

# Deciles of the 254 public speeches of ``texts.py``, in tokens of Qwen3.5; their mean is 1057.
SPEECHES = (25, 298, 422, 511, 605, 694, 793, 920, 1257, 1835, 10398)

Lengths = NDArray[np.int64]


def _posts(rng: np.random.Generator, count: int) -> Lengths:
    """A median of 55 tokens."""
    return np.clip(rng.lognormal(np.log(55), 0.5, count), 5, 280).astype(np.int64)


def _speeches(rng: np.random.Generator, count: int) -> Lengths:
    shares = rng.uniform(0, 1, count)
    return np.exp(np.interp(shares, np.linspace(0, 1, len(SPEECHES)), np.log(SPEECHES))).astype(np.int64)


def _articles(rng: np.random.Generator, count: int) -> Lengths:
    """Assumed, not recorded: a median of 1500 tokens, with a tail beyond every limit."""
    return np.maximum(100, rng.lognormal(np.log(1500), 0.9, count)).astype(np.int64)


MIXTURES: dict[str, Callable[[np.random.Generator, int], Lengths]] = {
    "posts": _posts,
    "speeches": _speeches,
    "articles": _articles,
}


def mixture(name: str, count: int, limit: int) -> list[int]:
    """Tokens of ``count`` prompts of at most ``limit``, the same in every run."""
    rng = np.random.default_rng(sorted(MIXTURES).index(name))
    return np.minimum(MIXTURES[name](rng, count) + PREFIX + SUFFIX, limit).tolist()


def sequences(prefix: Sequence[int] | Ids, lengths: Iterable[int], vocabulary: int) -> list[Ids]:
    """The prefix and this many random tokens after it, the same in every run."""
    rng, start = np.random.default_rng(0), np.asarray(prefix, dtype=np.int32)
    return [np.concatenate([start, rng.integers(0, vocabulary, n, dtype=np.int32)]) for n in lengths]


def random_prefix(vocabulary: int) -> Ids:
    """Stands for the tokens that all prompts share, where there is no prompt."""
    return np.random.default_rng(30).integers(0, vocabulary, PREFIX, dtype=np.int32)


def prompts(lengths: Iterable[int], vocabulary: int) -> list[Ids]:
    """Random prompts of these lengths, which all start with ``random_prefix``."""
    return sequences(random_prefix(vocabulary), [length - PREFIX for length in lengths], vocabulary)
