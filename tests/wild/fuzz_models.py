"""What a damaged file must lead to: a refusal, the answers of the sound file, or those of an independent reader.

A target is made in an empty folder; it is called with a generator of random numbers, damages its file, and gives the
outcome in a word. Anything but these outcomes is an exception.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from damage import damaged_bytes
from mutate import mutated
from test_config import check_config
from test_config import config as sound_config
from tokenizers import Tokenizer

import classifier
import tiny
from slant.demo import FOLDER
from slant.engine import Engine
from slant.errors import SlantError
from slant.evaluation.reference import last_logits, load_model
from slant.prompt.prompt import Prompt
from slant.quantize.job import quantize_checkpoint

REFUSED, SAME, AS_REFERENCE = "refused", "the same answers", "the answers of transformers"
SHAPE = "attention first and last"
Target = Callable[[Random], str]


class Model:
    """A tiny checkpoint of which one file is damaged; transformers is the judge where the answers change."""

    def __init__(self, folder: Path, file: str, damage: Callable[[bytes, Random], bytes]) -> None:
        torch.set_num_threads(1)
        self.folder, self.file, self.damage = folder, folder / file, damage
        classifier.write(folder, SHAPE)
        self.sound = self.file.read_bytes()
        self.answers = self._answers()
        self._transformers()  # imported before memory is limited

    def __call__(self, random: Random) -> str:
        self.file.write_bytes(self.damage(self.sound, random))
        try:
            found = self._answers()
        except SlantError as error:
            return refused(error)
        if np.array_equal(found, self.answers):
            return SAME
        theirs = self._transformers()
        both = np.isfinite(found) & np.isfinite(theirs)  # weights that are finite and huge overflow sooner or later
        np.testing.assert_allclose(found[both], theirs[both], atol=1e-4, rtol=1e-4)
        return AS_REFERENCE

    def _answers(self) -> np.ndarray:
        return Engine.load(self.folder, weights="fp32").score(classifier.TEXTS).logits

    def _transformers(self) -> np.ndarray:
        prompt = Prompt.load(self.folder)
        sequences = [row.ids.tolist() for row in prompt.encode(classifier.TEXTS)]
        return last_logits(load_model(self.folder, torch.float32), sequences, prompt.answer_ids).numpy()


def config(folder: Path) -> Target:
    """config.json of both kinds with damaged values, and one with damaged bytes."""
    tempfile.tempdir = str(folder)
    shapes = [SHAPE, tiny.MULTIMODAL]
    assert all(check_config(sound_config(shape), shape) for shape in shapes)
    (folder / "bytes").mkdir()
    bytes_of_it = Model(folder / "bytes", "config.json", damaged_bytes)

    def check(random: Random) -> str:
        if random.random() < 0.2:
            return bytes_of_it(random)
        shape = random.choice(shapes)
        return AS_REFERENCE if check_config(mutated(sound_config(shape), random), shape) else REFUSED

    return check


def safetensors(folder: Path) -> Target:
    return Model(folder, "model.safetensors", _header)


class Manifest:
    """A tiny artifact with a damaged manifest, whose own hash of itself is sometimes made right again."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        classifier.write(checkpoint, SHAPE)
        self.artifact = quantize_checkpoint(checkpoint, folder / "artifact", tiny.recipe(4))
        self.file = self.artifact / "artifact.json"
        self.sound = self.file.read_bytes()
        self.answers = self._answers()

    def __call__(self, random: Random) -> str:
        self.file.write_bytes(
            _signed(self.sound, random) if random.random() < 0.7 else damaged_bytes(self.sound, random)
        )
        try:
            found = self._answers()
        except SlantError as error:
            return refused(error)
        np.testing.assert_array_equal(found, self.answers)
        return SAME

    def _answers(self) -> np.ndarray:
        return Engine.load(self.artifact, weights="fp32").score(classifier.TEXTS).logits


class TokenizerFile:
    """A damaged tokenizer.json of byte pairs: the tokenizers library, asked for the whole prompt, is the judge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sound = (FOLDER / "tokenizer.json").read_bytes()
        shutil.copy(FOLDER / "tokenizer.json", folder)
        self.texts = [*classifier.TEXTS, "Zwölf Boxkämpfer jagen Viktor.\n\nÜber den Deich 🙂 中文", " 12,345.67 \t x"]
        self.ids = self._ids()

    def __call__(self, random: Random) -> str:
        (self.folder / "tokenizer.json").write_bytes(self._damaged(random))
        try:
            found = self._ids()
        except SlantError as error:
            return refused(error)
        if found == self.ids:
            return SAME
        judge = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        judge.no_truncation()
        judge.no_padding()
        prompt = Prompt.load(self.folder)
        assert found == [judge.encode(prompt.template.replace("{article}", text.strip())).ids for text in self.texts]
        return "the tokens of tokenizers"

    def _damaged(self, random: Random) -> bytes:
        """Mostly damage beside the thousands of entries of the vocabulary, which would get nearly all of it."""
        if random.random() < 0.3:
            return _any_json(self.sound, random)
        content = json.loads(self.sound)
        large = {name: content["model"].pop(name) for name in ("vocab", "merges")}
        content = mutated(content, random)
        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            content["model"] = large | content["model"]
        return _dumps(content)

    def _ids(self) -> list[list[int]]:
        rows = Prompt.load(self.folder, special_tokens="parse").encode(self.texts)
        return [row.ids.tolist() for row in rows]


def refused(error: SlantError) -> str:
    """A refusal is one line that says something."""
    message = str(error)
    assert message.strip()
    assert "\n" not in message, message
    assert len(message) < 1500, message
    return REFUSED


def _any_json(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return damaged_bytes(data, random)
    return _dumps(mutated(json.loads(data), random))


def _header(data: bytes, random: Random) -> bytes:
    """A safetensors file with a damaged header, the length before it right or not, or with damage anywhere."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.2:
        return damaged_bytes(data, random)
    header = _any_json(header, random)
    stated = len(header) if random.random() < 0.9 else random.choice((0, 1, length, 2**40, 2**63, len(header) - 1))
    return stated.to_bytes(8, "little") + header + rest


def _signed(data: bytes, random: Random) -> bytes:
    """The manifest with damaged entries and the hash that fits them."""
    content = json.loads(data)
    del content["sha256"]
    content = mutated(content, random)
    if not isinstance(content, dict):
        return _dumps(content)
    return _dumps({**content, "sha256": hashlib.sha256(_dumps(content)).hexdigest()}) + b"\n"


def _dumps(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
