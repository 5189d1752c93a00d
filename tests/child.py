"""Python in a process of its own: it finds the modules that the tests find, and its Triton kernels compile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def python(
    *arguments: object, check: bool = True, without: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` without environment variables that start so, and with others; a failure is asserted."""
    hidden = ("TRITON_INTERPRET", *without)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
