"""The manifest of an artifact, ``artifact.json``: what is in the folder and how it was made.

Its bytes are a function of its content, and its last entry is a hash of the others: any change of the file shows. The
hash guards against damage; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slant.artifact import MANIFEST
from slant.artifact.recipe import Recipe
from slant.errors import CheckpointError, RecipeError
from slant.files import write_whole

FORMAT, VERSION = "slant-artifact", 1
_REQUIRED = ("format", "version", "recipe", "made", "source", "answers", "files")
_OPTIONAL = {"certificate": "certificate", "probe": "self_test"}  # key in the file: field
_MADE = {"slant", "torch", "hqq", "device"}
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``made`` names the versions and the device, ``source`` the checkpoint's files and ``files`` the artifact's.

    ``answers`` are the token ids whose rows of the head are kept, or None where the head is the embedding.
    ``certificate`` and ``self_test`` are JSON objects of their own makers, or None.
    """

    recipe: Recipe
    made: Mapping[str, str]
    source: Mapping[str, FileInfo]
    answers: tuple[int, ...] | None
    files: Mapping[str, FileInfo]
    certificate: Mapping[str, Any] | None = None
    self_test: Mapping[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The content of the file, without the hash of itself."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": self.recipe.json(),
            "made": dict(self.made),
            "source": {name: vars(info) for name, info in self.source.items()},
            "answers": self.answers and list(self.answers),
            "files": {name: vars(info) for name, info in self.files.items()},
        }
        stored = {key: getattr(self, field) for key, field in _OPTIONAL.items()}
        return content | {key: value for key, value in stored.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Put it in the folder, whole or not at all."""
        write_whole(folder / MANIFEST, _render(self.json()))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises CheckpointError if the file is missing, was changed or is of another version."""
        path = folder / MANIFEST
        try:
            content = path.read_bytes()
            raw = json.loads(content, parse_constant=_refuse)
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist; give the folder of an artifact.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({error}); get the artifact again.") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise CheckpointError(f"{path} does not describe an artifact of slant.")
        if type(raw.get("version")) is not int or raw["version"] != VERSION:
            raise CheckpointError(
                f"{path} is of version {raw.get('version')!r}, and this slant reads {VERSION}; "
                "update slant or quantize again."
            )
        raw.pop("sha256", None)
        if _render(raw) != content:
            raise CheckpointError(f"{path} was changed after it was written; get the artifact again.")
        return cls._parse(raw, str(path))

    @classmethod
    def _parse(cls, raw: Mapping[str, Any], source: str) -> Manifest:
        damaged = CheckpointError(f"{source} does not hold what version {VERSION} asks for; quantize again.")
        if not set(_REQUIRED) <= raw.keys() <= {*_REQUIRED, *_OPTIONAL}:
            raise damaged
        objects = [raw[key] for key in ("made", "source", "files", *_OPTIONAL) if key in raw]
        made, answers = raw["made"], raw["answers"]
        if not all(isinstance(part, dict) for part in objects) or made.keys() != _MADE:
            raise damaged
        if not all(isinstance(value, str) for value in made.values()):
            raise damaged
        if answers is not None and not (isinstance(answers, list) and all(type(id) is int for id in answers)):
            raise damaged
        try:
            recipe = Recipe.parse(raw["recipe"], source)
            files = [{name: _file(name, info) for name, info in raw[key].items()} for key in ("source", "files")]
        except (RecipeError, ValueError) as error:
            raise CheckpointError(f"{error}".removesuffix(".") + "; quantize again.") from None
        kept = answers if answers is None else tuple(answers)
        return cls(recipe, made, files[0], kept, files[1], raw.get("certificate"), raw.get("probe"))


def _file(name: str, raw: object) -> FileInfo:
    # A name is never a path: nothing outside the folder is opened.
    if _FILE.fullmatch(name) and isinstance(raw, dict) and raw.keys() == {"bytes", "sha256"}:
        info = FileInfo(**raw)
        if type(info.bytes) is int and isinstance(info.sha256, str) and _SHA256.fullmatch(info.sha256):
            return info
    raise ValueError(f"{name!r} is not described by a size and a hash.")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _render(content: Mapping[str, Any]) -> bytes:
    body = json.dumps(content, indent=1, allow_nan=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1, allow_nan=False) + "\n").encode()
