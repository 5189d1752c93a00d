"""The manifest of an artifact, ``artifact.json``: what is in the folder and how it was made.

Its bytes are a function of its content, and its last entry is a hash of the others: any change of the file shows. The
hash guards against damage; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from slant.artifact import MANIFEST
from slant.artifact.recipe import Recipe
from slant.errors import CheckpointError
from slant.files import write_whole
from slant.validation import Sha256, record, shown

FORMAT, VERSION = "slant-artifact", 1
# A name is never a path: nothing outside the folder is opened.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
Made = Annotated[dict[Literal["slant", "torch", "hqq", "device"], str], Field(min_length=4)]


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and SHA-256 of a file."""

    bytes: Annotated[int, Field(ge=0, le=2**63)]
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """``made`` names the versions and the device, ``source`` the checkpoint's files and ``files`` the artifact's.

    ``answers`` are the token ids whose rows of the head are kept, or None where the head is the embedding.
    ``certificate`` and ``self_test`` are JSON objects of their own makers, or None.
    """

    recipe: Recipe
    made: Made
    source: Mapping[FileName, FileInfo]
    answers: tuple[int, ...] | None
    files: Mapping[FileName, FileInfo]
    certificate: Mapping[str, Any] | None = None
    self_test: Annotated[Mapping[str, Any] | None, Field(validation_alias="probe")] = None

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
        stored = {"certificate": self.certificate, "probe": self.self_test}
        return content | {key: value for key, value in stored.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Put it in the folder, whole or not at all."""
        write_whole(folder / MANIFEST, _render(self.json()))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises CheckpointError if the file is missing, was changed or is of another version."""
        path = folder / MANIFEST
        try:
            written = path.read_bytes()
            raw = json.loads(written)
            content = {key: value for key, value in raw.items() if key != "sha256"} if isinstance(raw, dict) else {}
            unchanged = _render(content, allow_nan=True) == written  # what reads a NaN's field names it
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist; give the folder of an artifact.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON ({error}); get the artifact again.") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise CheckpointError(f"{path} does not describe an artifact of slant.")
        if type(raw.get("version")) is not int or raw["version"] != VERSION:
            raise CheckpointError(
                f"{path}: version is {shown(raw.get('version'))}, and this slant reads {VERSION}; update slant or "
                "quantize again."
            )
        if not unchanged:
            raise CheckpointError(f"{path} was changed after it was written; get the artifact again.")
        del content["format"], content["version"]
        return record(cls, content, str(path), CheckpointError, "quantize again")


def _render(content: Mapping[str, Any], allow_nan: bool = False) -> bytes:
    body = json.dumps(content, indent=1, allow_nan=allow_nan)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1, allow_nan=allow_nan) + "\n").encode()
