"""Scores made of given or random probabilities, for the tests of drift."""

import numpy as np

from slant.scores import Score, Scores

NAMES = ("a", "b", "c", "d", "e")


def scores(probabilities, tokens=None, errors=None):
    """Scores of given probabilities ``[n, k]``; their logits are the logarithms."""
    rows = []
    names = NAMES[: len(probabilities[0])]
    for i, p in enumerate(np.array(probabilities, dtype=np.float32)):
        if errors and errors[i]:
            rows.append(Score.failed(errors[i], len(names)))
        else:
            rows.append(Score.of(np.log(p), p, names, tokens=tokens[i] if tokens else 100, dropped=0))
    return Scores(rows, names)


def random_pair(n, k=5, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, logits + noise * rng.normal(size=(n, k))))
    tokens = rng.integers(90, 5000, n).tolist()
    return scores(p, tokens), scores(q, tokens)
