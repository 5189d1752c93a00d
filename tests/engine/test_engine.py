"""The public way: texts in, scores out, with the bundled checkpoint."""

import json
import math
import random
import shutil
import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from slant import Engine
from slant.demo import FOLDER, passages
from slant.errors import SlantError
from slant.evaluation.reference import Reference
from slant.runtime.runner import Runner

pytestmark = pytest.mark.usefixtures("two_threads")

TEXTS = [passage["text"] for passage in passages()]
LOADERS = Reference.load, Engine.load


@pytest.fixture(scope="module")
def engine():
    return Engine.load(FOLDER, weights="fp32")


@pytest.fixture(scope="module")
def scores(engine):
    return engine.score(TEXTS)


def test_fp32_equals_the_reference_on_every_passage(scores):
    truth = Reference.load(FOLDER, weights="fp32").score(TEXTS)
    assert scores.error == truth.error == [None] * len(TEXTS)
    np.testing.assert_allclose(scores.logits, truth.logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(scores.probabilities, truth.probabilities, atol=1e-4, rtol=0)
    assert scores.label.tolist() == truth.label.tolist()
    assert scores.tokens.tolist() == truth.tokens.tolist()


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_bf16_is_as_close_to_the_truth_as_the_reference(scores, every):
    truth = scores.logits[::every]
    theirs, ours = (load(FOLDER, weights="bf16").score(TEXTS[::every]).logits - truth for load in LOADERS)
    assert 0 < np.abs(ours).max() <= 2 * np.abs(theirs).max()
    assert np.sqrt((ours**2).mean()) <= 2 * np.sqrt((theirs**2).mean())


def test_columns_agree_with_each_other(scores):
    assert scores.probabilities.dtype == scores.expected.dtype == scores.margin.dtype == np.float32
    assert scores.probabilities.shape == scores.logits.shape == (len(TEXTS), 5)
    np.testing.assert_allclose(scores.probabilities.sum(1), 1, atol=1e-6)
    assert (scores.label == scores.probabilities.argmax(1)).all()
    np.testing.assert_allclose(scores.expected, scores.probabilities @ np.arange(5), atol=1e-5)
    ordered = np.sort(scores.probabilities)
    np.testing.assert_allclose(scores.margin, ordered[:, -1] - ordered[:, -2], atol=1e-6)
    assert scores.label_name == [scores.labels[label] for label in scores.label]
    assert not scores.truncated.any()
    assert scores[3].label == scores[3:5].label[0] == scores.label[3]
    assert len(scores) == len(list(scores)) == len(TEXTS)


def test_one_text_alone(engine, scores):
    score = engine.score(TEXTS[0])
    np.testing.assert_allclose(score.probabilities, scores[0].probabilities, atol=1e-5)
    assert score.label_name == scores[0].label_name


def test_batch_equals_single(engine, scores):
    singles = np.stack([engine.score(text).logits for text in TEXTS])
    np.testing.assert_allclose(singles, scores.logits, atol=1e-4, rtol=0)


def test_shuffled_input_gives_the_same_rows(engine, scores):
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    shuffled = engine.score([TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled.logits, scores.logits[order], atol=1e-4, rtol=0)
    assert shuffled.label.tolist() == scores.label[order].tolist()


def test_a_text_without_the_prompts_prefix_is_computed_in_full(engine, scores):
    """Prefix ids that no text starts with send every text the long way."""
    runner = engine.runner
    saved, runner.prefix_ids = runner.prefix_ids, runner.prefix_ids + 1
    results = engine.score(TEXTS[:8])
    runner.prefix_ids = saved
    np.testing.assert_allclose(results.logits, scores.logits[:8], atol=1e-4, rtol=0)


def test_sequences_with_and_without_the_prefix_in_one_call(engine):
    """A sequence that starts otherwise is computed in full, and every answer goes to its own row."""
    runner = engine.runner
    generator = np.random.default_rng(0)
    prefix = runner.prefix_ids
    bodies = [generator.integers(100, 4000, n).astype(np.int32) for n in (40, 50, 60, 70)]
    other = prefix.copy()
    other[3] += 1
    mixed = [np.concatenate([start, body]) for start, body in zip((other, prefix, other, prefix), bodies, strict=True)]
    mixed += [prefix[:5], prefix]  # shorter than the prefix, and the prefix itself
    answers = {row: line for result in runner.run(mixed) for row, line in zip(result.rows, result.logits, strict=True)}
    assert sorted(answers) == list(range(len(mixed)))
    plain = Runner(runner.model, runner.head, (), replace(runner.planner, token_budget=1))
    for row, sequence in enumerate(mixed):
        (result,) = plain.run([sequence])
        np.testing.assert_allclose(answers[row], result.logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "bad", ["", " \n\t ", None, math.nan, 3, 2.5, b"bytes", ["list"], "a \ud800 surrogate"], ids=repr
)
def test_a_bad_row_becomes_its_error(engine, scores, bad):
    result = engine.score([TEXTS[0], bad, TEXTS[1]])
    assert result.ok.tolist() == [True, False, True]
    assert result.label.tolist() == [scores.label[0], -1, scores.label[1]]
    assert result.error[1]
    assert "\n" not in result.error[1]
    assert np.isnan(result.probabilities[1]).all()
    np.testing.assert_allclose(result.logits[[0, 2]], scores.logits[:2], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "good", ["a\0b", "\u200fשלום עולם", "مرحبا", "🙂", "e\u0301", "a" * 5000, "\u2028x", "{article}"]
)
def test_odd_text_is_scored_like_the_reference(engine, good):
    truth = Reference.load(FOLDER).score([good])
    np.testing.assert_allclose(engine.score(good).logits, truth.logits[0], atol=1e-4, rtol=0)


def test_single_bad_text_raises(engine):
    with pytest.raises(ValueError, match="empty"):
        engine.score("  ")


def test_nothing_in_nothing_out(engine):
    empty = engine.score([])
    assert len(empty) == 0
    assert empty.probabilities.shape == (0, 5)
    assert list(engine.stream([])) == []


def test_stream_keeps_order_and_reads_no_further_than_its_window(engine, scores):
    read = []

    def source():
        for i in range(10_000_000):
            read.append(i)
            yield TEXTS[i % len(TEXTS)]

    first = list(islice(engine.stream(source(), window=16), 40))
    assert len(read) <= 48
    np.testing.assert_allclose([s.logits for s in first], scores.logits[:40], atol=1e-4, rtol=0)


def test_stream_reports_each_batch_before_the_windows_answers(engine):
    batches = []
    stream = engine.stream([*TEXTS, None], progress=lambda texts, tokens: batches.append((texts, tokens)))
    first = next(stream)
    assert sum(texts for texts, _ in batches) == len(TEXTS)
    assert sum(tokens for _, tokens in batches) == first.tokens + sum(score.tokens for score in stream)
    assert len(batches) > 1


def test_stream_overlapped_keeps_order_and_reads_two_windows_ahead(engine, scores):
    read = []

    def source():
        for index in range(10**6):
            read.append(threading.get_ident())
            yield TEXTS[index % len(TEXTS)]

    first = list(islice(engine.stream(source(), window=16, overlap=True), 40))
    assert len(read) <= (3 + 1) * 16
    assert set(read) == {threading.get_ident()}, "a caller's iterator stays in the caller's thread"
    for index, score in enumerate(first):
        np.testing.assert_allclose(score.logits, scores[index % len(TEXTS)].logits, atol=1e-5)
    everything = engine.stream([*TEXTS, None], window=10, overlap=True)
    assert [score.error is None for score in everything] == [True] * len(TEXTS) + [False]
    assert list(engine.stream([], overlap=True)) == []


def test_stream_overlapped_passes_failures_on(engine, monkeypatch):
    monkeypatch.setattr(engine.runner, "run", lambda sequences: (_ for _ in ()).throw(SlantError("no memory")))
    with pytest.raises(SlantError, match="no memory"):
        list(engine.stream(TEXTS, window=8, overlap=True))


def test_stream_refuses_an_empty_window(engine):
    with pytest.raises(ValueError, match="window"):
        next(engine.stream(TEXTS, window=0))


def test_truncation_is_reported(engine):
    short = Engine.load(FOLDER, weights="fp32", max_tokens=256)
    score = short.score([" ".join(TEXTS), TEXTS[0]])
    full = engine.score(" ".join(TEXTS))
    assert score.truncated.tolist() == [True, False]
    assert score.tokens[0] <= 256
    assert score.tokens[0] + score.tokens_dropped[0] == full.tokens
    with_error = Engine.load(FOLDER, max_tokens=256, truncation="error").score([" ".join(TEXTS), TEXTS[0]])
    assert with_error.ok.tolist() == [False, True]


def test_other_labels_and_template(scores):
    other = Engine.load(FOLDER, weights="fp32", template="Text: {article}\nclass ", labels={"0": "left", "4": "right"})
    assert other.labels == ("left", "right")
    assert other.score(TEXTS[:3]).probabilities.shape == (3, 2)


def test_labels_of_the_checkpoint_folder(tmp_path, scores):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    (folder / "slant.json").write_text(json.dumps({"labels": {"4": "right", "0": "left"}}))
    two = Engine.load(folder, weights="fp32").score(TEXTS[:4])
    odds = scores.probabilities[:4][:, [4, 0]]
    np.testing.assert_allclose(two.probabilities, odds / odds.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"weights": "int7"}, "int7"),
        ({"device": "abacus"}, "abacus"),
        ({"device": "mps"}, "mps"),
        ({"max_tokens": 10}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"truncation": "tail"}, "tail"),
        ({"template": "no marker"}, "article"),
        ({"labels": {"0": "left", "hundreds of words": "right"}}, "hundreds of words"),
        ({"token_budget": 0}, "token_budget"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options, word):
    with pytest.raises(SlantError, match=word):
        Engine.load(FOLDER, **options)


def test_missing_tokenizer_is_refused(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SlantError, match=r"tokenizer\.json"):
        Engine.load(folder)


def test_tokenizer_of_a_larger_model_is_refused(tmp_path, tiny_checkpoint):
    folder = shutil.copytree(tiny_checkpoint("grouped"), tmp_path / "model")
    shutil.copy(FOLDER / "tokenizer.json", folder)
    with pytest.raises(SlantError, match="not of the same model"):
        Engine.load(folder)
