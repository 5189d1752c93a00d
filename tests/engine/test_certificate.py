"""A certificate survives JSON, and one that contradicts itself is refused."""

import copy
import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from answers import random_pair

from slant.artifact import certificate as certificates
from slant.artifact.arithmetic import Arithmetic
from slant.artifact.coverage import coverage
from slant.demo import FOLDER
from slant.errors import CheckpointError
from slant.evaluation.drift.figures import drift_between
from slant.prompt.prompt import Prompt

ARITHMETIC = Arithmetic("hqq4", "fp32", "cpu", 8192, "head", "avx2")


@pytest.fixture(scope="module")
def made():
    a, b = random_pair(40)
    drift = drift_between(a, b, np.arange(40) % 5)
    return certificates.certificate(
        drift,
        texts=[f"text {i}" for i in range(39)] + [None],
        prompt=Prompt.load(FOLDER),
        arithmetic=ARITHMETIC,
        reference="bf16",
        method="layerwise",
        device="cpu",
        date="2026-01-31",
    )


def test_json_and_back(made):
    text = json.dumps(certificates.as_json(made), allow_nan=False)
    assert certificates.parse(json.loads(text)) == made
    assert made.texts[0] == hashlib.sha256(b"text 0").hexdigest()
    assert made.texts[-1] is None


def put(path, value):
    def change(plain):
        *before, last = path
        for key in before:
            plain = plain[key]
        plain[last] = value

    return change


def swap_columns(plain):
    """As many rows, but others of them on the diagonal."""
    for row in plain["drift"]["overall"]["figures"]["confusion"]:
        row.reverse()


OVERALL = ("drift", "overall", "figures")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda plain: plain.pop("texts"), "missing"),
        (put(["more"], 1), "unknown"),
        (put(["format"], 3), "newer"),
        (put(["format"], 0), "format"),
        (put(["date"], "yesterday"), "ISO 8601"),
        (put(["method"], "guessed"), "method"),
        (put(["reference"], "hqq4"), "reference"),
        (put(["device"], ""), "device"),
        (put(["arithmetic"], None), "arithmetic"),
        (put(["arithmetic", "max_tokens"], 5), "arithmetic"),
        (put(["arithmetic", "weights"], "int8"), "arithmetic"),
        (put(["texts", 3], "abc"), r"texts\[3\] is \"abc\""),
        (put(["texts"], []), "0 text hashes"),
        (put([*OVERALL, "rows"], 39), "rows"),
        (put([*OVERALL, "rows"], 40.0), "40.0"),
        (put([*OVERALL, "flips"], 0), "add up"),
        (swap_columns, "flips are not"),
        (put([*OVERALL, "flip_rate"], 0.0), "flip rate"),
        (put([*OVERALL, "weighted_flip_rate"], 1.5), "weighted_flip_rate is 1.5"),
        (put([*OVERALL, "kl", "mean"], math.nan), "NaN"),
        (put([*OVERALL, "kl", "mean"], -1.0), "negative"),
        (put([*OVERALL, "delta", "p99"], 2.0), "maximum"),
        (put([*OVERALL, "confusion"], [[40]]), "confusion"),
        (put(["drift", "buckets"], []), "add up"),
        (put(["drift", "failures"], [{"row": 99, "reference": None, "ours": "x"}]), "failed rows"),
    ],
)
def test_a_certificate_that_does_not_hold_together_is_refused(made, change, word):
    plain = copy.deepcopy(certificates.as_json(made))
    change(plain)
    with pytest.raises(CheckpointError, match=word):
        certificates.parse(plain)


@pytest.mark.parametrize("wrong", [None, [], "x", {}])
def test_what_is_no_certificate_is_refused(wrong):
    with pytest.raises(CheckpointError, match="certificate"):
        certificates.parse(wrong)


def test_the_stable_margin_is_the_99th_percentile_of_the_gap(made):
    stored, rate = certificates.as_json(made), made.drift.overall.figures.flip_rate
    assert rate > 0
    asked = made.prompt.template_sha256, made.prompt.answers
    found = coverage(stored, ARITHMETIC, *asked, "m")
    found.require(rate)
    assert found.stable_margin == made.drift.overall.figures.gap.p99
    with pytest.raises(CheckpointError, match=r"flips .* over the limit"):
        found.require(rate * 0.99)
    sixteen = dataclasses.replace(ARITHMETIC, dtype="bf16", truncation="error")
    for missing, reason in (
        (coverage(None, ARITHMETIC, *asked, "m"), "m has no certificate"),
        (coverage(stored, ARITHMETIC, asked[0], tuple("abcde"), "m"), "of m is for another prompt"),
        (coverage(stored, ARITHMETIC, "0" * 64, asked[1], "m"), "of m is for another prompt"),
        (coverage(stored, sixteen, *asked, "m"), "dtype=bf16 instead of fp32, truncation=error instead of head"),
    ):
        assert missing.stable_margin is None
        with pytest.raises(CheckpointError, match=reason):
            missing.require(1.0)


def test_another_instruction_set_is_covered(made):
    other = dataclasses.replace(ARITHMETIC, instruction_set="avx512")
    assert coverage(certificates.as_json(made), other, made.prompt.template_sha256, made.prompt.answers, "m").flip_rate


def test_format_1_is_read(made):
    old = {**certificates.as_json(made), "format": 1}
    del old["arithmetic"]
    assert certificates.parse(old) == dataclasses.replace(made, format=1, arithmetic=None)
