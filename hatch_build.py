"""As slant is built or installed from source, compile the CPU ops that are written in C++, if there is a compiler."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("kernels", "slant_kernels")


class NativeOps(BuildHookInterface):
    """Compiles for this kind of processor at all its levels; without a compiler, the package works on torch alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root, KERNELS)
        for level, why in runpy.run_path(str(folder / "build_native.py"))["build"]().items():
            self.app.display_warning(f"the CPU ops for {level} were not compiled and run on torch: {why}")
        if any(folder.glob("native.*.so")):
            build_data["artifacts"].append(f"/{KERNELS.as_posix()}/native.*.so")
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
