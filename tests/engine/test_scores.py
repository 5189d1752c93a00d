"""Score and Scores: equality, and columns that are made once."""

from dataclasses import replace

import numpy as np
import pytest

from slant.demo import FOLDER
from slant.engine import Engine
from slant.scores import Score, Scores

NAMES = ("left", "center", "right")


def score(seed: int, **changes) -> Score:
    logits = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    odds = np.exp(logits)
    return replace(Score.of(logits, odds / odds.sum(), NAMES, tokens=7, dropped=0), **changes)


def test_scores_of_equal_answers_are_equal():
    assert score(0) == score(0)
    assert score(0) != score(1)
    assert score(0) != "left"


@pytest.mark.parametrize(
    "change",
    [
        {"logits": np.zeros(3, np.float32)},
        {"probabilities": np.zeros(3, np.float32)},
        {"probabilities": np.zeros(2, np.float32)},
        {"tokens": 8},
        {"error": "bad"},
        {"stable": True},
    ],
)
def test_every_field_counts(change):
    assert score(0) != score(0, **change)


def test_failed_rows_are_equal_by_their_error():
    assert Score.failed("bad", 3) == Score.failed("bad", 3)
    assert Score.failed("bad", 3) != Score.failed("worse", 3)


def test_a_text_scored_twice_is_equal_to_itself():
    engine = Engine.load(FOLDER)
    assert engine.score("Taxes.") == engine.score("Taxes.")
    assert engine.score(["Taxes.", None]) == engine.score(["Taxes.", None])
    assert engine.score(["Taxes."]) != engine.score(["Rain."])


def test_a_column_is_made_once():
    """Reading one in a loop over rows must not make it anew for each."""
    scores = Scores([score(seed) for seed in range(5)], NAMES)
    for name in ("probabilities", "logits", "label", "expected", "margin", "tokens", "label_name", "error", "ok"):
        assert getattr(scores, name) is getattr(scores, name)
    assert scores.probabilities.shape == (5, 3)
    assert scores[1:3].probabilities.tolist() == scores.probabilities[1:3].tolist()
