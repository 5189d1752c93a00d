"""What an artifact promises: known answers at load, a certificate, stable rows, and a cascade for the others."""

import copy
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from slant.artifact import self_test as probe
from slant.artifact.certificate import as_json
from slant.artifact.reader import Artifact
from slant.artifact.recipe import Recipe
from slant.cascade import Cascade
from slant.cli.app import app
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.drift.budgets import Budgets
from slant.evaluation.drift.measure import measure
from slant.quantize.writer import quantize_checkpoint
from slant.tables.labelled import LabelledTexts

TEXTS = [passage["text"] for passage in passages()]


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """The demo at 3 bits: its drift is large enough to see, and small enough to leave rows stable."""
    folder = quantize_checkpoint(FOLDER, tmp_path_factory.mktemp("certified") / "q3", Recipe.of(3))
    texts = LabelledTexts.read(str(FOLDER / "passages.jsonl"))
    report = measure(folder, texts, date="2026-01-31", weights="fp32", reference="fp32", reference_model=FOLDER)
    Artifact(folder).annotate(certificate=as_json(report.certificate))
    return folder


@pytest.fixture
def known(certified):
    """The artifact's known answers, restored after a test that changes them."""
    artifact = Artifact(certified)
    saved = copy.deepcopy(artifact.probe)
    yield artifact, copy.deepcopy(saved)
    artifact.annotate(probe=saved)


def test_known_answers_are_those_of_the_artifact(certified):
    stored = Artifact(certified).probe
    scores = Engine.load(certified, weights="fp32").score(stored["texts"])
    np.testing.assert_allclose(scores.probabilities, stored["probabilities"], atol=1e-5)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_changed_answers_refuse_to_start(certified, known, weights):
    artifact, stored = known
    stored["probabilities"][1] = stored["probabilities"][1][::-1]
    artifact.annotate(probe=stored)
    with pytest.raises(CheckpointError, match="known texts are off"):
        Engine.load(certified, weights=weights)


def test_answers_to_another_prompt_are_not_compared(certified, known):
    artifact, stored = known
    stored["probabilities"][1] = stored["probabilities"][1][::-1]
    artifact.annotate(probe=stored)
    Engine.load(certified, labels={"0": "left", "4": "right"})


@pytest.mark.parametrize(
    "damage",
    [{"texts": "text"}, {"texts": [1, 2, 3, 4]}, {"probabilities": [[1.0]] * 3}, {"probabilities": None}, {"more": 1}],
)
def test_damaged_known_answers_are_refused(certified, known, damage):
    artifact, stored = known
    artifact.annotate(probe=stored | damage)
    with pytest.raises(CheckpointError, match="known answers"):
        Engine.load(certified)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (0.2, "same answer")])
def test_a_model_that_answers_nonsense_gets_no_probe(value, word):
    engine = Engine.load(FOLDER)
    scores = engine.score(list(probe.TEXTS))
    for score in scores:
        score.probabilities[:] = value
    with pytest.raises(CheckpointError, match=word):
        probe.record(engine.prompt, scores)


def test_max_flip_rate_needs_a_certificate_within_it(certified):
    rate = Artifact(certified).certificate["drift"]["overall"]["figures"]["flip_rate"]
    assert rate > 0
    assert Engine.load(certified, max_flip_rate=rate).stable_margin > 0
    with pytest.raises(CheckpointError, match="over the limit"):
        Engine.load(certified, max_flip_rate=rate * 0.99)
    with pytest.raises(CheckpointError, match="no certificate"):
        Engine.load(FOLDER, max_flip_rate=1.0)
    with pytest.raises(CheckpointError, match="another prompt"):
        Engine.load(certified, labels={"0": "left", "4": "right"}, max_flip_rate=1.0)


def test_a_stable_row_never_flips(certified):
    scores = Engine.load(certified, weights="fp32").score(TEXTS)
    truth = Engine.load(FOLDER, weights="fp32").score(TEXTS)
    stable = np.array([score.stable for score in scores])
    assert 0 < stable.sum() < len(TEXTS)
    assert (scores.label[stable] == truth.label[stable]).all()
    assert (scores.label != truth.label).any()
    assert all(score.stable is None for score in truth)


def test_a_certificate_for_another_prompt_says_nothing_of_stability(certified):
    score = Engine.load(certified, labels={"0": "left", "4": "right"}).score(TEXTS[0])
    assert score.stable is None


def test_a_cascade_answers_unstable_rows_with_the_second_model(certified):
    first, second = Engine.load(certified, weights="fp32"), Engine.load(FOLDER, weights="fp32")
    alone, truth = first.score(TEXTS), second.score(TEXTS)
    counted = []
    scores = list(Cascade(first, second).stream([*TEXTS, None], progress=lambda texts, _: counted.append(texts)))
    assert sum(counted) == len(TEXTS)
    assert scores[-1].error
    for score, one, two in zip(scores, alone, truth, strict=False):
        assert score.stable == one.stable
        source = one if one.stable else two
        np.testing.assert_allclose(score.logits, source.logits, atol=1e-4)


def test_a_cascade_needs_a_certificate_and_equal_labels(certified):
    first, second = Engine.load(certified), Engine.load(FOLDER)
    with pytest.raises(SlantError, match="no certificate"):
        Cascade(second, first)
    with pytest.raises(SlantError, match="different labels"):
        Cascade(first, Engine.load(FOLDER, labels={"0": "left", "4": "right"}))


def test_the_command_certifies_and_rescores(certified, tmp_path):
    run = CliRunner().invoke
    made = tmp_path / "q8"
    assert run(app, ["quantize", "demo", str(made), "--bits", "8"]).exit_code == 0
    measured = ["drift", str(made), "--reference-model", "demo", "--texts", str(FOLDER / "passages.jsonl"), "--certify"]
    beyond = run(app, [*measured, "--max-kl", "0"])
    assert beyond.exit_code == 1
    assert Artifact(made).certificate is None
    assert run(app, [*measured, "--max-flip-rate", "0"]).exit_code == 0
    assert Artifact(made).certificate["drift"]["overall"]["figures"]["flips"] == 0
    assert "Certificate" in run(app, ["inspect", str(made)]).output
    options = ["--model", str(certified), "--rescore-unstable", "demo", "--output", str(tmp_path / "out.jsonl")]
    assert run(app, ["score", str(FOLDER / "passages.jsonl"), *options]).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["stable"] for row in rows} == {True, False}
    truth = Engine.load(FOLDER).score(TEXTS)
    assert all(row["label"] == score.label for row, score in zip(rows, truth, strict=True))


def test_an_artifact_layer_by_layer_gives_the_same_bits(certified):
    whole, parts = (load(certified, weights="fp32").score(TEXTS) for load in (Engine.load, Engine.layerwise))
    assert np.array_equal(whole.logits, parts.logits)


# What the demo may drift from fp32 by, at each setting: the stated budgets.
BUDGETS = {
    "hqq8": Budgets(max_flip_rate=0.0, max_kl=1e-4, max_p99_delta=0.05),
    "hqq4": Budgets(max_flip_rate=0.05, max_kl=0.005, max_p99_delta=0.25),
}


@pytest.mark.parametrize(
    ("weights", "budgets", "within"),
    [("hqq8", "hqq8", True), ("hqq4", "hqq4", True), ("hqq4", "hqq8", False), ("hqq2", "hqq4", False)],
)
def test_demo_within_its_stated_budgets(weights, budgets, within):
    texts = LabelledTexts.read(str(FOLDER / "passages.jsonl"))
    report = measure(
        FOLDER, texts, date="2026-01-31", weights=weights, reference="fp32", budgets=BUDGETS[budgets], device="cpu"
    )
    found = {excess.budget for excess in report.exceeded}
    assert found == (set() if within else {"max_flip_rate", "max_kl", "max_p99_delta"})
