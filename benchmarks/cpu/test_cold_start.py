"""What a new process takes: to import, to score the bundled passages, and to load the model. Files may be cached."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS = {
    "import slant": ["-c", "import slant"],
    "slant demo": ["-c", "from slant.cli.app import main; main()", "demo"],
    "Engine.load": ["-c", "import sys, slant; slant.Engine.load(sys.argv[1], device='cpu')"],
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_new_process(name: str, folder: Path, measure: Callable[..., Any]) -> None:
    command = [sys.executable, *COMMANDS[name]]
    if name == "Engine.load":
        command.append(str(folder))
    paths = [str(ROOT / "engine"), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    measure(
        lambda: subprocess.run(command, env=variables, capture_output=True, check=True),
        workload=name,
    )
