"""The folder of a job that can be stopped at any moment: a manifest, parts, a lock and the scores of its texts.

The manifest says what the job is: all that decides its output. It is written when the job begins and once more when all
parts are there, with the figures of the whole; in between, what is finished is what has a part. The folder stands
beside the output and is removed with the joined parts, or it is the output, a dataset.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from slant.errors import TableError, shortened
from slant.files import read_json, remove_unfinished, sync_folder, write_whole
from slant.tables.lock import hold
from slant.tables.parts import Parts
from slant.tables.summary import Figures
from slant.tables.write import Output

MANIFEST, LOCK, SCORES, JOINED = "_manifest.json", "_lock", "_scores.sqlite", "_joined"
FORMAT = 1
SHOWN = 5  # differences in a message


class Job:
    """An open job, whose lock this process holds. ``id`` is in the answers that it keeps.

    ``complete``: all parts were there once. ``figures`` and ``problems`` are then those of the whole.
    """

    def __init__(self, folder: Path, target: Path, *, dataset: bool) -> None:
        self.folder, self.target, self.parts = folder, target, Parts(folder, dataset)
        self._manifest: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return str(self._manifest["id"])

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return bool(self._manifest)

    @property
    def complete(self) -> bool:
        return self._manifest.get("parts") is not None

    @property
    def replaces(self) -> bool:
        """Whether an output that is there is to be replaced: --force said so, or it is this job's own."""
        return self.complete or bool(self._manifest.get("force"))

    @property
    def figures(self) -> Figures:
        return dict(self._manifest["figures"])

    @property
    def problems(self) -> dict[int, str]:
        return {int(file): problem for file, problem in self._manifest["problems"].items()}

    @property
    def whole(self) -> bool:
        """Whether all parts are there now."""
        return self.complete and len(self.parts.paths()) == self._manifest["parts"]

    def read(self) -> None:
        """Take the manifest as it is. Raises TableError if it is damaged, or not one of a job."""
        path = self.folder / MANIFEST
        if not path.exists():
            return
        try:
            manifest = read_json(path, TableError)
            known = isinstance(manifest, dict) and {"id", "key", "force"} <= manifest.keys()
        except TableError:
            known = False
        if not known:
            raise TableError(f"{path} is damaged; begin the job anew with --restart.")
        if manifest.get("format") != FORMAT:
            raise TableError(f"{path} is of another version of slant; finish the job with it, or give --restart.")
        self._manifest = manifest

    def agree(self, key: Mapping[str, object]) -> None:
        """Raise TableError if the job was begun with other values than these."""
        before = self._manifest.get("key", {})
        said = json.loads(json.dumps(key))
        changed = [_difference(name, before[name], said[name]) for name in said if name in before]
        changed = [difference for difference in changed if difference]
        if changed:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise TableError(
                f"{self.target} is an unfinished job with other settings ({'; '.join(changed[:SHOWN])}{more}): "
                f"give those of {self.folder} again, or begin anew with --restart."
            )

    def begin(self, key: Mapping[str, object], *, force: bool, again: bool) -> None:
        """Write the manifest of a new job, or take up an old one. again: some of its parts are to be made anew."""
        if not self._manifest:
            self._manifest = {"format": FORMAT, "id": secrets.token_hex(4), "force": force, "key": dict(key)}
            self._write()
        elif self.complete and (again or not self.whole):
            for name in ("parts", "figures", "problems"):
                del self._manifest[name]
            self._manifest["force"] = True  # an output that is there is this job's own
            self._write()
        remove_unfinished(self.folder)

    def end(self, figures: Figures, problems: Mapping[int, str], parts: int) -> None:
        """Note that all parts are there."""
        self._manifest |= {"parts": parts, "figures": figures, "problems": dict(problems)}
        self._write()

    def join(self, output: Output) -> None:
        """Make the output of all parts; it appears when it is complete. Raises OSError."""
        joined = self.folder / JOINED
        with output.writer(joined, self.target) as write:
            for index in range(self._manifest["parts"]):
                write(self.parts.payload(index))
        final = self.target.resolve()
        joined.replace(final)
        sync_folder(final.parent)

    def forget_scores(self) -> None:
        """Nothing will be scored again."""
        for path in self.folder.glob(f"{SCORES}*"):
            path.unlink()

    def clear(self) -> None:
        """Remove all that a job has in its folder but the lock."""
        self._remove(MANIFEST)

    def remove(self) -> None:
        """Remove the folder as well, unless it holds something else."""
        self._remove(LOCK, MANIFEST)
        with suppress(OSError):
            self.folder.rmdir()

    def _remove(self, *last: str) -> None:
        """What says that the job was complete goes last: a process that is killed here is known to have ended."""
        remove_unfinished(self.folder)
        scores = self.folder.glob(f"{SCORES}*")
        for path in [*self.parts.paths().values(), *scores, *(self.folder / name for name in (JOINED, *last))]:
            path.unlink(missing_ok=True)
        self._manifest = {}

    def _write(self) -> None:
        write_whole(self.folder / MANIFEST, json.dumps(self._manifest, indent=1).encode())


def job_folder(target: Path, *, dataset: bool) -> Path:
    """Where the job of an output has its folder."""
    final = target.resolve()
    return final if dataset else final.with_name(f"{final.name}.parts")


@contextmanager
def open_job(target: Path, *, dataset: bool, restart: bool) -> Iterator[Job]:
    """Lock the job of an output, and read what there is of it. If no part is finished at the end, nothing is left.

    restart: remove what there is first. Raises TableError if another process has it, if the folder is of something
    else or its manifest damaged, and OSError if the folder cannot be made.
    """
    folder = job_folder(target, dataset=dataset)
    _check_folder(folder)
    try:
        lock = hold(folder / LOCK, target)
    except OSError as error:
        error.filename = str(target) if error.filename in (str(folder), str(folder / LOCK)) else error.filename
        raise
    with lock:
        job = Job(folder, target, dataset=dataset)
        try:
            if restart:
                job.clear()
            job.read()
            yield job
        except BaseException:
            if not job.parts.paths():
                job.remove()
            raise


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TableError(f"{folder} is a file, and the job's folder would have its name; name another output.")
    names = [path.name for path in folder.iterdir()]
    if names and not {MANIFEST, LOCK} & set(names):
        raise TableError(f"{folder} is a folder of something else ({shortened(names[0])}); name another output.")


def _difference(name: str, before: Any, now: Any) -> str:
    """What has changed, in words; empty if nothing."""
    if before == now:
        return ""
    if name != "inputs":
        one, other = (shortened(value if isinstance(value, str) else json.dumps(value), 24) for value in (before, now))
        return f"{name} was {one}, is {other}"
    if len(before) == len(now):
        others = [new["name"] for old, new in zip(before, now, strict=True) if old != new]
        return f"{others[0]} has other content" if len(others) == 1 else f"{len(others)} inputs have other content"
    old, new = ([file["name"] for file in files] for files in (before, now))
    added, gone = (next((name for name in one if name not in two), None) for one, two in ((new, old), (old, new)))
    which = ", ".join(filter(None, (added and f"{added} is new", gone and f"{gone} is gone")))
    return f"inputs: {len(before)} files were, {len(now)} are{f' ({which})' if which else ''}"
