"""The parts of a job: a file for each window of rows, complete or absent, with the window's figures in it.

A part of a table that is joined at the end is a payload of ``Output`` with a footer; a part of a dataset is a Parquet
file whose metadata hold the figures. The set of these files is all that says what is finished.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slant.errors import TableError
from slant.files import replacing
from slant.tables.arrow_format import DAMAGED
from slant.tables.rows import Chunk
from slant.tables.sources import Place, Window
from slant.tables.summary import Figures
from slant.tables.write import Answers, Output

FOOTER = struct.Struct("<QIII4s")  # sizes of payload and JSON, checksums of both, and:
MAGIC = b"SLP1"
METADATA = b"slant"  # the key in a Parquet file


@dataclass(frozen=True, slots=True)
class Part:
    """What a part says of its window: its figures, where reading goes on, and problems of files found in it."""

    figures: Figures
    end: Place
    share: float | None
    problems: dict[int, str]

    @classmethod
    def of(cls, window: Window, figures: Figures) -> Part:
        return cls(figures, window.end, window.share, window.problems)

    def json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=True).encode()

    @classmethod
    def read(cls, content: bytes) -> Part:
        found: dict[str, Any] = json.loads(content)
        problems = {int(file): problem for file, problem in found["problems"].items()}
        return cls(found["figures"], Place(**found["end"]), found["share"], problems)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts in ``folder``; those of a ``dataset`` are Parquet files."""

    folder: Path
    dataset: bool

    def path(self, index: int) -> Path:
        return self.folder / (f"part-{index:08}.parquet" if self.dataset else f"{index:08}.part")

    def paths(self) -> dict[int, Path]:
        """Those with the name of a part, by number."""
        if not self.folder.is_dir():
            return {}
        pattern = re.compile(r"part-(\d{8,})\.parquet" if self.dataset else r"(\d{8,})\.part")
        found = ((pattern.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {int(name[1]): path for name, path in sorted(found, key=lambda pair: pair[1]) if name}

    def finished(self) -> dict[int, Part]:
        """All that are complete; a damaged one is none."""
        found = ((index, self._read(path)) for index, path in sorted(self.paths().items()))
        return {index: part for index, part in found if part is not None}

    def write(self, index: int, part: Part, output: Output, rows: Iterable[tuple[Chunk, Answers]]) -> None:
        """Write the part of a window. Raises OSError."""
        with replacing(self.path(index)) as file:
            if self.dataset:
                batches = list(output.batches(rows))
                schema = output.schema
                table = pa.Table.from_batches(batches, schema)
                pq.write_table(table.replace_schema_metadata({**(schema.metadata or {}), METADATA: part.json()}), file)
                return
            payload, said = output.payload(rows), part.json()
            file.write(payload)
            file.write(said)
            file.write(FOOTER.pack(len(payload), len(said), zlib.crc32(payload), zlib.crc32(said), MAGIC))

    def payload(self, index: int) -> bytes:
        """The payload of a part that is to be joined; raises TableError if it was damaged, and removes it."""
        path = self.path(index)
        content = path.read_bytes()
        size, _, checksum, _, _ = FOOTER.unpack(content[-FOOTER.size :])
        if zlib.crc32(content[:size]) != checksum:
            path.unlink()
            raise TableError(f"{path} was damaged, and is removed; give the same command again, which scores it anew.")
        return content[:size]

    def _read(self, path: Path) -> Part | None:
        try:
            if self.dataset:
                return Part.read(pq.read_metadata(path).metadata[METADATA])
            with path.open("rb") as file:
                end = file.seek(0, 2)
                file.seek(max(0, end - FOOTER.size))
                payload, said, _, checksum, magic = FOOTER.unpack(file.read())
                file.seek(payload)
                content = file.read(said)
            if magic != MAGIC or end != payload + said + FOOTER.size or zlib.crc32(content) != checksum:
                return None
            return Part.read(content)
        except (*DAMAGED, struct.error, TypeError):
            return None
