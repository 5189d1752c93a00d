"""An artifact whose manifest is damaged and carries the hash that fits: it loads as before, or the field is named."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mutate import places
from test_records import certificate

import classifier
import tiny
from slant.cli import app as cli
from slant.engine import Engine
from slant.errors import SlantError
from slant.quantize.job import quantize_checkpoint


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    torch.set_num_threads(1)
    (folder / "checkpoint").mkdir()
    classifier.write(folder / "checkpoint", "attention first and last")
    made = quantize_checkpoint(folder / "checkpoint", folder / "artifact", tiny.recipe(4))
    sound = json.loads((made / "artifact.json").read_text())
    (folder / "sound.json").write_text(json.dumps({**sound, "certificate": certificate()}))
    return made


def sound(artifact: Path) -> dict[str, Any]:
    """The content of its manifest, with a certificate, but of another model: it covers nothing."""
    content: dict[str, Any] = json.loads((artifact.parent / "sound.json").read_text())
    del content["sha256"]
    return content


def refusal(artifact: Path, content: dict[str, Any]) -> str:
    """What loading says of the artifact with this manifest, signed; nothing if it loads."""
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    (artifact / "artifact.json").write_text(json.dumps({**content, "sha256": digest}, indent=1) + "\n")
    try:
        Engine.load(artifact, weights="fp32")
    except SlantError as error:
        return str(error)
    return ""


def changed(content: dict[str, Any], path: list[Any], value: object) -> dict[str, Any]:
    content = part = copy.deepcopy(content)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return content


def test_the_sound_one_loads(artifact: Path) -> None:
    assert refusal(artifact, sound(artifact)) == ""


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["probe", "texts", 1], "", '(probe) in {} is damaged: texts[1] is "": The text is empty; quantize again.'),
        (["probe", "texts", 0], " \x1c\n", '(probe) in {} is damaged: texts[0] is " \\u001c\\n": The text is empty; q'),
        (["probe", "probabilities", 0, 0], INFINITE, "(probe) in {} is damaged: probabilities[0][0] is Infinity, but "),
        (["certificate", "drift", "overall", "figures", "kl", "p99"], INFINITE,
         "the certificate in {} does not hold together: drift.overall.figures.kl.p99 is Infinity, but must be a finite "
         "number; quantize again."),
        (["certificate", "prompt", "max_tokens"], 0, "{} does not hold together: prompt.max_tokens is 0, but must"),
        (["files", "config.json", "bytes"], NAN, "{}: files.config.json.bytes is NaN, but must be"),
        (["version"], "x" * 5000, '{}: version is "' + "x" * 49 + '... (5002 characters), and this slant reads 1; upd'),
        (["version"], INFINITE, "{}: version is Infinity, and this slant reads 1; update"),
    ],
)  # fmt: skip
def test_the_file_the_field_and_the_value_are_named(
    artifact: Path, path: list[Any], value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refusal(artifact, changed(sound(artifact), path, value))
    assert message.format(artifact / "artifact.json") in found
    if path[0] != "probe":
        assert cli.run(["inspect", str(artifact)]) == 2
        assert message.format(artifact / "artifact.json") in capsys.readouterr().err.replace("\n", " ")


def test_a_number_beyond_all_floats_was_not_written_by_slant(artifact: Path) -> None:
    (artifact / "artifact.json").write_text(json.dumps(sound(artifact), indent=1).replace("0.0", "1e999"))
    with pytest.raises(SlantError, match="was changed after it was written"):
        Engine.load(artifact)


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_a_value_nested_without_end(artifact: Path, depth: int) -> None:
    text = json.dumps(sound(artifact)).replace('"version": 1', f'"version": 1, "more": {"[" * depth}{"]" * depth}', 1)
    (artifact / "artifact.json").write_text(text)
    with pytest.raises(SlantError, match=r"artifact.json (cannot be read as JSON|was changed)"):
        Engine.load(artifact)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, -1, 10**400, NAN, INFINITE, "", "x" * 10_000, "a\nb", None, [], {}], ids=repr)
def test_any_value_in_any_place(artifact: Path, value: object) -> None:
    """Nothing but a refusal of one short line, or the model as it was."""
    whole = sound(artifact)
    for index in range(len(places(whole))):
        content = copy.deepcopy(whole)
        part, key = places(content)[index]
        part[key] = value
        message = refusal(artifact, content)
        assert "\n" not in message
        assert len(message) < 700, message


@pytest.mark.slow
def test_names_of_any_length(artifact: Path) -> None:
    whole = sound(artifact)
    for index in range(len(places(whole))):
        content = copy.deepcopy(whole)
        part, key = places(content)[index]
        if isinstance(key, str):
            part["k" * 10_000] = part.pop(key)
            message = refusal(artifact, content)
            assert "\n" not in message
            assert 0 < len(message) < 700, message
