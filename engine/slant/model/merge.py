"""An adapter and its base written as one checkpoint; what they are merged to, ``slant.model.merged`` computes."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from slant.errors import CheckpointError
from slant.files import PART, sync_folder
from slant.model.checkpoint import Checkpoint
from slant.model.merged import MergedCheckpoint
from slant.model.source import open_checkpoint


def merge_adapter(
    adapter: str | Path,
    output: str | Path,
    base: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Merge an adapter, a folder or hub id, into a checkpoint ``output``, and return its path.

    base: in place of the one that the adapter names. progress: called with (tensors written, tensors in all).

    ``output`` appears complete or not at all. Raises CheckpointError if it exists, or if the two do not fit.
    """
    target = Path(output)
    if not target.absolute().parent.is_dir():
        raise CheckpointError(f"the folder {target.parent} does not exist.")
    if target.exists():
        raise CheckpointError(f"{target} exists; name another destination.")
    merged = open_checkpoint(adapter, base)
    if not isinstance(merged, MergedCheckpoint):
        raise CheckpointError(f"{adapter} is a whole checkpoint, and no adapter: there is nothing to merge.")
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}{PART}")
    work.mkdir()
    try:
        merged.save(work, progress)
        Checkpoint(work)  # it must open
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sync_folder(target.absolute().parent)
    return target
