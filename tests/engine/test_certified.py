"""What an artifact promises: a self-test at load, a certificate, stable rows, and a cascade for the others."""

import copy
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny
from precision import NATIVE_BF16, WEIGHTS
from slant.artifact import self_test
from slant.artifact.arithmetic import Arithmetic
from slant.artifact.certificate import as_json
from slant.cascade import Cascade
from slant.cli.app import app
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.drift.budgets import Budgets, exceeded
from slant.evaluation.drift.measure import measure
from slant.model.source import open_artifact
from slant.options import LoadOptions
from slant.quantize.job import quantize_checkpoint
from slant.scores import Score
from slant.tables.labelled import LabelledTexts

pytestmark = pytest.mark.usefixtures("two_threads")

FP32 = LoadOptions(weights="fp32")
TEXTS = [passage["text"] for passage in passages()]


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """The demo at 3 bits: its drift is large enough to see, and small enough to leave rows stable."""
    folder = quantize_checkpoint(FOLDER, tmp_path_factory.mktemp("certified") / "q3", tiny.recipe(3))
    texts = LabelledTexts.read(str(FOLDER / "passages.jsonl"))
    report = measure(folder, texts, FP32, date="2026-01-31", reference="fp32", reference_model=FOLDER)
    open_artifact(folder).annotate(certificate=as_json(report.certificate))
    return folder


@pytest.fixture
def known(certified):
    """The artifact's self-test, restored after a test that changes it."""
    artifact = open_artifact(certified)
    saved = copy.deepcopy(artifact.self_test)
    yield artifact, copy.deepcopy(saved)
    artifact.annotate(self_test=saved)


def test_known_answers_are_those_of_the_artifact(certified):
    stored = open_artifact(certified).self_test
    scores = Engine.load(certified, weights="fp32").score(stored["texts"])
    np.testing.assert_allclose(scores.probabilities, stored["probabilities"], atol=1e-5)


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_changed_answers_refuse_to_start(certified, known, weights):
    artifact, stored = known
    stored["probabilities"][1] = stored["probabilities"][1][::-1]
    artifact.annotate(self_test=stored)
    with pytest.raises(CheckpointError, match="known texts are off"):
        Engine.load(certified, weights=weights)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": {"0": "left", "4": "right"}},
        {"template": "{article} class "},
        {"max_tokens": 100, "truncation": "error"},
        {"max_tokens": 90, "truncation": "middle"},
    ],
)
def test_the_self_test_has_options_of_its_own(certified, known, options):
    """A healthy artifact loads whatever the user's options, and a damaged one does not."""
    artifact, stored = known
    assert Engine.load(certified, **options).score(["a"]).error == [None]
    stored["probabilities"][1] = stored["probabilities"][1][::-1]
    artifact.annotate(self_test=stored)
    with pytest.raises(CheckpointError, match="known texts are off"):
        Engine.load(certified, **options)


@pytest.mark.parametrize(
    ("weights", "dtype", "off", "fine"),
    [
        ("int8", "fp32", 0.05, True),
        ("int8", "bf16", 0.05, True),
        ("artifact", "fp32", 0.05, False),
        ("int8", "fp32", 0.2, False),
        ("fp8", "bf16", 0.15, True),
        ("fp8", "bf16", 0.25, False),
    ],
)
def test_8_bits_have_their_own_tolerance_on_every_processor(weights, dtype, off, fine):
    """Whatever dtype the rest is computed in, which depends on the processor."""
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=np.float32)
    stored = self_test.record("0" * 64, "012", p)
    arithmetic = Arithmetic(weights, dtype, "cpu", 8192, "head", "avx2")
    with nullcontext() if fine else pytest.raises(CheckpointError, match="known texts are off"):
        self_test.check(stored, p + np.float32([off, -off, 0]), arithmetic)


@pytest.mark.parametrize(
    "damage",
    [{"texts": "text"}, {"texts": [1, 2, 3, 4]}, {"probabilities": [[1.0]] * 3}, {"probabilities": None}, {"more": 1}],
)
def test_damaged_known_answers_are_refused(certified, known, damage):
    artifact, stored = known
    artifact.annotate(self_test=stored | damage)
    with pytest.raises(CheckpointError, match=r"self-test \(probe\) in .*artifact.json is damaged"):
        Engine.load(certified)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (0.2, "same answer")])
def test_a_model_that_answers_nonsense_gets_no_self_test(value, word):
    engine = Engine.load(FOLDER)
    probabilities = np.full_like(engine.score(list(self_test.TEXTS)).probabilities, value)
    with pytest.raises(CheckpointError, match=word):
        self_test.record(engine.prompt.template_sha256, engine.prompt.labels, probabilities)


def test_max_flip_rate_needs_a_certificate_within_it(certified):
    rate = open_artifact(certified).certificate["drift"]["overall"]["figures"]["flip_rate"]
    assert rate > 0
    assert Engine.load(certified, FP32, max_flip_rate=rate).stable_margin > 0
    with pytest.raises(CheckpointError, match="over the limit"):
        Engine.load(certified, FP32, max_flip_rate=rate * 0.99)
    with pytest.raises(CheckpointError, match="no certificate"):
        Engine.load(FOLDER, max_flip_rate=1.0)
    with pytest.raises(CheckpointError, match="another prompt"):
        Engine.load(certified, FP32, labels={"0": "left", "4": "right"}, max_flip_rate=1.0)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        pytest.param({"weights": "bf16"}, "dtype=bf16 instead of fp32", marks=NATIVE_BF16),
        ({"weights": "int8"}, "weights=int8 instead of artifact"),
        ({"max_tokens": 512}, "max_tokens=512 instead of 8192"),
        ({"truncation": "middle"}, "truncation=middle instead of head"),
        ({"special_tokens": "parse"}, "special_tokens=parse instead of text"),
    ],
)
def test_a_certificate_does_not_cover_arithmetic_that_it_did_not_measure(certified, options, difference):
    options = {"weights": "fp32", **options}
    with pytest.raises(CheckpointError, match=difference):
        Engine.load(certified, **options, max_flip_rate=1.0)
    engine = Engine.load(certified, **options)
    assert engine.score(TEXTS[0]).stable is None
    with pytest.raises(SlantError, match=difference):
        Cascade(engine, engine)


def test_the_same_arithmetic_by_another_name_is_covered(certified):
    """What counts is what runs: an artifact's own recipe named, or a limit that is the default."""
    engine = Engine.load(certified, weights="fp32", max_tokens=8192, token_budget=300, deterministic=True)
    assert engine.score(TEXTS[0]).stable is not None


def test_a_certificate_of_format_1_covers_nothing_and_the_artifact_loads(certified, tmp_path):
    """It did not record what it was measured with: of an artifact it said "artifact", whatever the weights."""
    folder = shutil.copytree(certified, tmp_path / "old")
    artifact = open_artifact(folder)
    old = copy.deepcopy(dict(artifact.certificate)) | {"format": 1}
    del old["arithmetic"]
    artifact.annotate(certificate=old)
    assert Engine.load(folder, FP32).score(TEXTS[0]).stable is None
    with pytest.raises(CheckpointError, match="does not say what it was measured with"):
        Engine.load(folder, FP32, max_flip_rate=1.0)


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


def test_a_cascade_keeps_the_first_answer_where_the_second_has_none(certified, caplog):
    first, second = Engine.load(certified, weights="fp32"), Engine.load(FOLDER, weights="fp32")
    alone = first.score(TEXTS)
    second.stream = lambda texts, window: iter([Score.failed("no answer", 5) for _ in texts])
    scores = list(Cascade(first, second).stream(TEXTS))
    assert any(score.stable is False for score in scores)
    for score, one in zip(scores, alone, strict=True):
        assert (score.error, score.label, score.stable) == (None, one.label, one.stable)
    assert "no answer" in caplog.text


def test_a_cascade_needs_a_certificate_and_equal_labels(certified):
    first, second = Engine.load(certified, FP32), Engine.load(FOLDER)
    with pytest.raises(SlantError, match="no certificate"):
        Cascade(second, first)
    with pytest.raises(SlantError, match="different labels"):
        Cascade(first, Engine.load(FOLDER, labels={"0": "left", "4": "right"}))


def test_the_command_certifies_and_rescores(certified, tmp_path):
    run = CliRunner().invoke
    made, texts = tmp_path / "q8", tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[::4]))
    assert run(app, ["quantize", "demo", str(made), "--bits", "8"]).exit_code == 0
    measured = ["drift", str(made), "--reference-model", "demo", "--texts", str(texts), "--certify"]
    measured += ["--weights", WEIGHTS, "--reference", WEIGHTS]
    beyond = run(app, [*measured, "--max-kl", "0"])
    assert beyond.exit_code == 1
    assert open_artifact(made).certificate is None
    assert run(app, [*measured, "--max-flip-rate", "0"]).exit_code == 0
    assert open_artifact(made).certificate["drift"]["overall"]["figures"]["flips"] == 0
    assert "Certificate" in run(app, ["inspect", str(made)]).output
    options = ["--model", str(certified), "--weights", "fp32", "--rescore-unstable", "demo"]
    assert run(app, ["score", str(texts), *options, "--output", str(tmp_path / "out.jsonl")]).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["stable"] for row in rows} == {True, False}
    truth = Engine.load(FOLDER, FP32).score(TEXTS[::4])
    assert all(row["label"] == score.label for row, score in zip(rows, truth, strict=True))


def test_an_artifact_layer_by_layer_gives_the_same_bits(certified):
    whole, parts = (load(certified, weights="fp32").score(TEXTS) for load in (Engine.load, Engine.offloaded))
    assert np.array_equal(whole.logits, parts.logits)


# What the demo may drift from fp32 by, at each setting: the stated budgets.
BUDGETS = {
    "hqq8": Budgets(max_flip_rate=0.0, max_kl=1e-4, max_p99_delta=0.05),
    "hqq4": Budgets(max_flip_rate=0.05, max_kl=0.005, max_p99_delta=0.25),
}


@pytest.mark.parametrize(
    ("weights", "within", "beyond"),
    [
        ("hqq4", "hqq4", "hqq8"),
        pytest.param("hqq8", "hqq8", None, marks=pytest.mark.slow),
        pytest.param("hqq2", None, "hqq4", marks=pytest.mark.slow),
    ],
)
def test_demo_within_its_stated_budgets(weights, within, beyond):
    texts = LabelledTexts.read(str(FOLDER / "passages.jsonl"))
    report = measure(FOLDER, texts, LoadOptions(weights=weights), date="2026-01-31", reference="fp32")
    assert within is None or exceeded(report.drift, BUDGETS[within]) == ()
    found = exceeded(report.drift, BUDGETS[beyond]) if beyond else ()
    assert [excess.budget for excess in found] == (["max_flip_rate", "max_kl", "max_p99_delta"] if beyond else [])
