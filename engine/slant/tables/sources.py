"""The inputs of a job: files, folders and patterns, read one after another as one table, in windows of rows.

A file among several that cannot be read, or breaks off, is a problem that is told at the end, and the others are read.
A file given alone is refused.
"""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from slant.errors import TableError
from slant.tables.notes import opened_before
from slant.tables.read import ENDINGS, PACKED, STANDARD
from slant.tables.rows import Chunk, InputTable

log = logging.getLogger(__name__)

Open = Callable[[str], AbstractContextManager[InputTable]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading goes on: a row of a file, both counted from 0."""

    file: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that are scored together, number ``index``. Reading goes on at ``end``; ``share`` of the input is read.

    ``problems`` of files, by their number, were found since the window before.
    """

    index: int
    chunks: list[Chunk]
    end: Place
    share: float | None
    problems: dict[int, str]

    @property
    def rows(self) -> int:
        return sum(len(chunk.errors) for chunk in self.chunks)


def find_sources(given: str | Path | Sequence[str | Path], apart: Path, *, every: bool) -> list[str]:
    """The files that are meant, in order: those of a folder, at any depth, and of a pattern by their names.

    apart: a folder whose files are not meant. every: in folders take files with any ending. Files whose names, or
    folders', begin with "." or "_" are left out of folders. Raises TableError if there are none, or one is named twice.
    """
    found: list[str] = []
    for name in map(str, [given] if isinstance(given, str | Path) else given):
        path = Path(name)
        if name == STANDARD:
            files = [name]
        elif path.is_dir():
            files = [str(file) for file in sorted(path.rglob("*")) if _is_table(file, path, every)]
            files = [file for file in files if apart not in Path(file).resolve().parents]
            if not files:
                raise TableError(f"the folder {name} holds no table; its files may end with {', '.join(ENDINGS)}.")
        elif not _exists(path) and any(sign in name for sign in "*?["):
            files = [file for file in sorted(glob.glob(name, recursive=True)) if Path(file).is_file()]  # noqa: PTH207
            files = [file for file in files if apart not in Path(file).resolve().parents]
            if not files:
                raise TableError(f"no file matches {name}.")
        else:
            files = [name]
        found += files
    if not found:
        raise TableError("there is no input; name a file, a folder or a pattern.")
    if len(found) > 1:
        for name, times in Counter(found).items():
            if times > 1:
                raise TableError(f"{name} is named twice; name each file once.")
            if name == STANDARD or (_exists(Path(name)) and not Path(name).is_file()):
                raise TableError(f"{name} is no file, and can only be read alone.")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a NUL in the name
        return True  # which opening it says


def _is_table(file: Path, folder: Path, every: bool) -> bool:
    inside = file.relative_to(folder)
    if any(part[0] in "._" for part in inside.parts) or not file.is_file():
        return False
    ending = (file.with_suffix("") if file.suffix.lower() in PACKED else file).suffix.lower()
    return every or ending in ENDINGS


@dataclass(slots=True)
class Inputs:
    """The tables of ``sources``, whose columns together are ``schema``. ``problems`` of files are by their number.

    ``broken``: the only file breaks off, and no other try would read it whole.
    """

    sources: list[str]
    schema: pa.Schema
    _open: Open
    _first: InputTable | None = None
    problems: dict[int, str] = field(default_factory=dict)
    broken: bool = False

    def windows(self, size: int, start: Place = Place(), index: int = 0) -> Generator[Window, None, None]:
        """All rows from ``start`` on, ``size`` a window, perhaps of several files; ``index`` is the first."""
        held, rows, end, told = list[Chunk](), 0, start, set(self.problems)

        def window() -> Window:
            new = {file: problem for file, problem in self.problems.items() if file not in told}
            told.update(new)
            return Window(index, held, end, share, new)

        share: float | None = None
        for chunk, after, read in self._chunks(start):
            share = read
            while rows + len(chunk.errors) >= size:
                head, chunk = chunk.cut(size - rows)
                held.append(head)
                end = Place(after.file, after.row - len(chunk.errors))
                yield window()
                index, held, rows = index + 1, [], 0
            end = after
            if chunk.errors:
                held.append(chunk)
                rows += len(chunk.errors)
        if held:
            yield window()

    def _chunks(self, start: Place) -> Iterator[tuple[Chunk, Place, float | None]]:
        """Chunks with the place after each, and the share of the input that is read with it."""
        sizes = [Path(name).stat().st_size if Path(name).is_file() else 0 for name in self.sources]
        for number in range(start.file, len(self.sources)):
            if number in self.problems:
                continue
            row = start.row if number == start.file else 0
            try:
                with self._table(number) as table:
                    done = table.skip(row)
                    for chunk in table.chunks:
                        done += len(chunk.errors)
                        if done <= row:
                            continue
                        _, rest = chunk.cut(max(0, len(chunk.errors) - (done - row)))
                        share = None
                        if table.total:
                            read = sum(sizes[:number]) + sizes[number] * chunk.end / table.total
                            share = min(1.0, read / max(sum(sizes), 1))
                        yield rest, Place(number, done), share
            except TableError as error:
                if len(self.sources) == 1:
                    self.broken = getattr(error.__cause__, "errno", None) is None
                    raise
                self._problem(number, error)

    @contextmanager
    def _table(self, number: int) -> Iterator[InputTable]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
            return
        opening = self._open(self.sources[number])
        with opened_before():
            table = opening.__enter__()
        with _closing(opening):
            yield table

    def _problem(self, number: int, error: TableError) -> None:
        self.problems[number] = str(error)
        log.warning("%s The other files are scored.", error)


@contextmanager
def _closing(opened: AbstractContextManager[InputTable]) -> Iterator[None]:
    try:
        yield
    finally:
        opened.__exit__(None, None, None)


@contextmanager
def open_inputs(sources: list[str], opening: Open) -> Iterator[Inputs]:
    """Open all far enough to know their columns. Raises TableError if none can be read."""
    if len(sources) == 1:
        with opening(sources[0]) as table:
            yield Inputs(sources, table.schema, opening, table)
        return
    inputs, schemas = Inputs(sources, pa.schema([]), opening), dict[str, pa.Schema]()
    first: TableError | None = None
    for number, source in enumerate(sources):
        try:
            with opening(source) as table:
                schemas[source] = table.schema
        except TableError as error:
            first = first or error
            inputs._problem(number, error)
    if first is not None and not schemas:
        raise first
    inputs.schema = _together(schemas)
    yield inputs


def _together(schemas: dict[str, pa.Schema]) -> pa.Schema:
    """All columns in order of appearance; raises TableError naming the first file that does not fit the others."""
    whole = pa.schema([])
    for name, schema in schemas.items():
        try:
            whole = pa.unify_schemas([whole, schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            raise TableError(
                f"{name} does not fit the files before it: {error}; score files of other columns apart."
            ) from error
    return whole
