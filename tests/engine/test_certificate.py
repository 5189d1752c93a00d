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
from slant.artifact.drift_record import Drift
from slant.artifact.records import from_plain, to_plain
from slant.demo import FOLDER
from slant.errors import CheckpointError
from slant.evaluation.drift.figures import drift_between
from slant.prompt.prompt import Prompt


@pytest.fixture(scope="module")
def made():
    a, b = random_pair(40)
    drift = drift_between(a, b, np.arange(40) % 5)
    return certificates.certificate(
        drift,
        texts=[f"text {i}" for i in range(39)] + [None],
        prompt=Prompt.load(FOLDER),
        weights="hqq4",
        reference="bf16",
        method="layerwise",
        device="cpu",
        date="2026-01-31",
    )


def test_json_and_back(made):
    text = json.dumps(certificates.as_json(made), allow_nan=False)
    assert certificates.parse(json.loads(text)) == made
    assert from_plain(Drift, to_plain(made.drift)) == made.drift
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
        (put(["format"], 2), "newer"),
        (put(["format"], 0), "format"),
        (put(["date"], "yesterday"), "ISO 8601"),
        (put(["method"], "guessed"), "method"),
        (put(["reference"], "hqq4"), "reference"),
        (put(["device"], ""), "device"),
        (put(["texts", 3], "abc"), "SHA-256"),
        (put(["texts"], []), "0 text hashes"),
        (put([*OVERALL, "rows"], 39), "rows"),
        (put([*OVERALL, "rows"], 40.0), "40.0"),
        (put([*OVERALL, "flips"], 0), "add up"),
        (swap_columns, "flips are not"),
        (put([*OVERALL, "flip_rate"], 0.0), "flip rate"),
        (put([*OVERALL, "weighted_flip_rate"], 1.5), "share"),
        (put([*OVERALL, "kl", "mean"], math.nan), "nan"),
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
    margin = certificates.certified_margin(stored, "m", made.prompt, max_flip_rate=rate)
    assert margin == made.drift.overall.figures.gap.p99
    with pytest.raises(CheckpointError, match=r"m flips .* over the limit"):
        certificates.certified_margin(stored, "m", made.prompt, max_flip_rate=rate * 0.99)
    other = dataclasses.replace(made.prompt, answers=("a", "b", "c", "d", "e"))
    for certificate, prompt in ((None, made.prompt), (stored, other)):
        assert certificates.certified_margin(certificate, "m", prompt) is None
        with pytest.raises(CheckpointError, match=r"m has no certificate|of m is for another prompt"):
            certificates.certified_margin(certificate, "m", prompt, max_flip_rate=1.0)
