"""slant's own JSON files, damaged: what they said, or an error that names the field; never another exception."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import mutated

from slant.artifact import certificate as certificates
from slant.artifact import manifest, self_test
from slant.artifact.arithmetic import Arithmetic
from slant.artifact.manifest import FileInfo, Manifest
from slant.artifact.recipe import Grid, Recipe
from slant.artifact.writer import Journal
from slant.demo import FOLDER
from slant.errors import CheckpointError, SlantError
from slant.evaluation.drift.figures import drift_between
from slant.prompt.prompt import DEFAULT_LABELS, DEFAULT_TEMPLATE, Prompt, _settings
from slant.scores import Score, Scores
from slant.training.run import begin

RECIPE = Recipe({"mlp.up_proj.weight": Grid(4), "layers.0.mlp.down_proj.weight": Grid(8, 128), "norm.weight": None})
ARITHMETIC = Arithmetic("hqq4", "fp32", "cpu", 8192, "head", "avx2")
FILE = FileInfo(5, "0" * 64)


@cache
def certificate() -> dict[str, Any]:
    logits = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
    a, b = (Scores([Score.of(x, p(x), ("x", "y", "z"), tokens=100, dropped=0) for x in rows], "xyz") for rows in logits)
    return certificates.as_json(
        certificates.certificate(
            drift_between(a, b, np.arange(12) % 3),
            texts=[f"text {i}" for i in range(11)] + [None],
            prompt=Prompt.load(FOLDER, labels={"0": "x", "1": "y", "2": "z"}),
            arithmetic=ARITHMETIC,
            reference="bf16",
            method="layerwise",
            device="cpu",
            date="2026-01-31",
        )
    )


def p(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def manifest_json() -> dict[str, Any]:
    made = {"slant": "0.1.0", "torch": "2.13.0", "hqq": "0.2.8", "device": "cpu"}
    stored = self_test.record("0" * 64, "012", np.eye(4, 3, dtype=np.float32))
    whole = Manifest(RECIPE, made, {"a.json": FILE}, (1, 2), {"b.json": FILE}, certificate(), stored)
    plain: dict[str, Any] = json.loads(json.dumps(whole.json()))
    return plain


def read_manifest(raw: Any) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.json"
        # As the writer does: a hand that changes a value does not mend the hash, a bug in a writer does.
        try:
            path.write_bytes(manifest._render(raw))
        except (ValueError, TypeError):  # NaN, or no object
            path.write_text(json.dumps(raw))
        return Manifest.read(Path(folder)).json()


def read_settings(raw: Any) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "slant.json"
        path.write_text(json.dumps(raw))
        template, labels = _settings(path)
        return {"template": template, "labels": labels}


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "certificate": (certificate, lambda raw: certificates.as_json(certificates.parse(raw))),
    "manifest": (manifest_json, read_manifest),
    "recipe": (RECIPE.json, lambda raw: Recipe.parse(raw).json()),
    "self-test": (lambda: manifest_json()["probe"], lambda raw: self_test.parse(raw, "artifact.json, probe")),
    "slant.json": (lambda: {"template": "{article}?", "labels": {"0": "a", "1": "b"}}, read_settings),
}


def keys(raw: Any) -> set[str]:
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return set(raw if isinstance(raw, dict) else ()).union(*map(keys, parts))


def same(read: Any, raw: Any) -> bool:
    """Equal JSON values, in which 1 is 1.0 but no true; null may be absent, and a group size of 64 too."""
    if isinstance(read, dict) and isinstance(raw, dict):
        raw = {"group_size": 64} | raw if read.keys() == {"bits", "group_size"} else raw
        return all(same(read.get(key), raw.get(key)) for key in read.keys() | raw.keys())
    if isinstance(read, list) and isinstance(raw, list):
        return len(read) == len(raw) and all(map(same, read, raw))
    return bool(read == raw) and isinstance(read, bool) == isinstance(raw, bool)


def check_record(kind: str, raw: Any) -> bool:
    """Assert that decoded JSON of a kind is read as what it says, or refused in a sentence that names a field.

    Returns whether it was read.
    """
    make, read = KINDS[kind]
    try:
        found = read(copy.deepcopy(raw))
    except SlantError as error:
        message = str(error)
        named = any((key or '""') in message for key in keys(raw) | keys(make()))
        named = named or "is no JSON number" in message or "lone surrogate" in message
        named = named or "was changed after it was written" in message  # without its hash: no writer makes a NaN
        if "\n" in message or len(message) > 600 or (isinstance(raw, dict) and not named):
            raise AssertionError(f"no field is named: {message}") from error
        return False
    if kind == "slant.json":
        raw = {"template": DEFAULT_TEMPLATE, "labels": DEFAULT_LABELS} | raw
    assert same(found, raw), f"{found} is read of {raw}"
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unchanged_is_read(kind: str) -> None:
    assert check_record(kind, KINDS[kind][0]())


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("certificate", ["drift", "rows"], "12", 'drift.rows is "12", but must be an integer'),
        ("certificate", ["drift", "rows"], 12.0, "drift.rows is 12.0, but must be an integer"),
        ("certificate", ["drift", "overall", "figures", "kl", "p99"], float("nan"), "figures.kl.p99 is NaN, but must"),
        ("certificate", ["drift", "overall", "figures", "flip_rate"], True, "flip_rate is true, but must be a number"),
        ("certificate", ["drift", "overall", "figures", "flips"], -1, "flips is -1, but must be greater than or equal"),
        ("certificate", ["texts", 2], 5, "texts[2] is 5, but must be a string"),
        ("certificate", ["date"], "31.1.2026", 'date is "31.1.2026", but must be a date of ISO 8601'),
        ("certificate", ["format"], True, "format is true"),
        ("certificate", ["versions"], [], "versions is [], but must be an object"),
        ("manifest", ["files", "b.json", "bytes"], "5", 'files.b.json.bytes is "5", but must be an integer'),
        ("manifest", ["files", "b.json", "sha256"], "x", 'files.b.json.sha256 is "x": string should match'),
        ("manifest", ["files", "../b.json"], {"bytes": 5, "sha256": "0" * 64}, "files.../b.json"),
        ("manifest", ["files", "b.json\n"], {"bytes": 5, "sha256": "0" * 64}, "files.b.json\\n"),
        ("manifest", ["made", "torch"], None, "made.torch is null, but must be a string"),
        ("manifest", ["answers"], [1.0], "answers[0] is 1.0, but must be an integer"),
        ("manifest", ["recipe"], None, "recipe is null, but must be an object"),
        ("manifest", ["version"], "9" * 5000, f'artifact.json: version is "{"9" * 49}... (5002 characters), and'),
        (
            "manifest",
            ["source", "a" * 300],
            {"bytes": 5, "sha256": "0" * 64},
            "at most 255 characters",
        ),
        ("certificate", ["prompt", "max_tokens"], 0, "prompt.max_tokens is 0, but must be greater than or equal to 1"),
        (
            "certificate",
            ["arithmetic", "max_tokens"],
            0,
            "arithmetic.max_tokens is 0, but must be greater than or equal",
        ),
        ("certificate", ["drift", "overall", "low"], -1, "drift.overall.low is -1, but must be greater than or equal"),
        ("certificate", ["format"], 10**400, "is of format 10000"),
        ("manifest", ["version"], "1", 'artifact.json: version is "1", and'),
        (
            "recipe",
            ["rules", "mlp.up_proj.weight", "bits"],
            "4",
            'rules.mlp.up_proj.weight.bits is "4", but must be an',
        ),
        ("recipe", ["rules", "mlp.up_proj.weight", "bits"], 5, "bits is 5, but slant takes only"),
        ("recipe", ["rules", "mlp.up_proj.weight", "bits"], True, "bits is true, but must be an integer"),
        ("recipe", ["rules", "mlp.up_proj.weight", "size"], 64, "rules.mlp.up_proj.weight.size is unknown"),
        ("recipe", ["rules"], [], "rules is [], but must be an object"),
        ("self-test", ["probabilities", 0, 0], "1", 'probabilities[0][0] is "1", but must be a number'),
        ("self-test", ["probabilities", 0], [1.0], "probabilities are not 4 rows of 3"),
        ("self-test", ["probabilities", 0, 0], 1.5, "probabilities[0][0] is 1.5, but must be less than or equal to 1"),
        ("self-test", ["texts"], "text", 'texts is "text", but must be a list'),
        ("slant.json", ["labels", "0"], None, "labels.0 is null, but must be a string"),
        ("slant.json", ["Template"], "{article}", "Template is unknown"),
    ],
)
def test_the_field_and_the_value_are_named(kind: str, path: list[Any], value: Any, message: str) -> None:
    raw = part = copy.deepcopy(KINDS[kind][0]())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(SlantError) as caught:
        KINDS[kind][1](raw)
    assert message in str(caught.value)


def test_more_wrong_fields_are_counted() -> None:
    with pytest.raises(SlantError, match=r"rules\.a\.bits is 5.*\(2 more of its fields are wrong\)"):
        Recipe.parse({"rules": {"a": {"bits": 5, "group_size": "64"}}, "more": 1})


def test_a_certificate_of_format_1_is_read() -> None:
    old = certificate() | {"format": 1}
    del old["arithmetic"]
    made = certificates.parse(old)
    assert made == dataclasses.replace(certificates.parse(certificate()), format=1, arithmetic=None)


@pytest.mark.parametrize("note", [{"file": 5}, {"file": []}, {"file": "../x"}, {"bytes": "5"}, {"sha256": None}, [], 5])
def test_a_damaged_note_in_the_journal_is_a_shard_that_is_made_again(tmp_path: Path, note: Any) -> None:
    raw = Manifest(RECIPE, {}, {}, None, {})
    Journal(tmp_path / "a", raw, force=False)
    path = tmp_path / "a" / ".journal"
    (tmp_path / "a" / "b").write_bytes(b"x")
    good = {"file": "b", "bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    with path.open("a") as file:
        file.write(json.dumps(good) + "\n")
        file.write(json.dumps(good | note if isinstance(note, dict) else note) + "\n")
    assert set(Journal(tmp_path / "a", raw, force=False).files) <= {"b"}


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", '{"base": 1}', "[" * 100_000])
def test_a_damaged_plan_of_a_training_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(CheckpointError, match="plan"):
        begin(tmp_path, {"base": "m", "plan": 2})


def check_damaged(kind: str, seed: int) -> None:
    check_record(kind, mutated(KINDS[kind][0](), Random(seed), ("rules", "bits", "texts", "template", "files")))


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_record_is_read_as_it_stands_or_names_the_field(kind: str, seed: int) -> None:
    check_damaged(kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_many_damaged_records(kind: str, seed: int) -> None:
    check_damaged(kind, seed)
