"""Thread pools that libraries start, in a command's own process: as many threads as compute, and no more.

By themselves they take a thread for each CPU that they see, whatever the control group's quota is. torch's, which
OpenMP runs, is set where a model is loaded; a library's own variable in the environment wins.
"""

from __future__ import annotations

import os

from slant.cores import cores

POOLS = ("OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")  # numpy's and the tokenizer's, read when they start
_before = {name for name in POOLS if name in os.environ}


def limit_pools(threads: int | None = None) -> None:
    """Before numpy is imported and a text tokenized; by default the threads that an engine takes."""
    count = str(threads or cores().threads)
    os.environ.update({name: count for name in POOLS if name not in _before})
