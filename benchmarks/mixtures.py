"""Token sequences whose lengths are those of posts, speeches and articles, with the prompt around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def mixture(name: str, count: int, vocabulary: int, limit: int) -> list[Ids]:
    """``count`` prompts of a mixture, of at most ``limit`` tokens, the same in every run."""
    rng = np.random.default_rng(sorted(MIXTURES).index(name))
    return prompts(np.minimum(MIXTURES[name](rng, count) + PREFIX + SUFFIX, limit).tolist(), vocabulary, rng)


def prompts(lengths: Sequence[int], vocabulary: int, rng: np.random.Generator | None = None) -> list[Ids]:
    """Random prompts of these lengths, which all start with ``prefix``."""
    rng = rng or np.random.default_rng(0)
    start = prefix(vocabulary)
    bodies = [rng.integers(0, vocabulary, length - PREFIX, dtype=np.int32) for length in lengths]
    return [np.concatenate([start, body]) for body in bodies]


def prefix(vocabulary: int) -> Ids:
    """The tokens that all prompts share."""
    return np.random.default_rng(30).integers(0, vocabulary, PREFIX, dtype=np.int32)
