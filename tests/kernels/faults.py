"""A library with one fault planted in its sources, to see that the checks of an op see it.

It is compiled for AVX2, which runs wherever the tests of x86 do, of the sources of one op. ``marks`` are those of a
module of such tests.
"""

import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from slant_kernels import build_native, native

LEVEL = "avx2"
WIDTH = '#include "vectors.h"\nextern "C" int64_t slant_panel() { return PANEL; }\n'  # delta_net.cpp has it

marks = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(
        LEVEL not in build_native.LEVELS.get(platform.machine(), {}) or not native.levels(), reason="needs AVX2"
    ),
]


def check_sees(fault: tuple[str, str], check: Callable[[], None], sources: Sequence[str], folder: Path) -> None:
    """``check`` raises AssertionError on a library with the fault, and nothing without one.

    fault: the code as it is, in one of ``sources`` or the headers, and what it is exchanged for; empty for none.
    """
    with _planted(*fault, sources, folder):
        if fault[0]:
            with pytest.raises(AssertionError):
                check()
        else:
            check()


@contextmanager
def _planted(old: str, new: str, sources: Sequence[str], folder: Path) -> Iterator[None]:
    """The ops run in a library of these sources alone, of which the first ``old`` is ``new``."""
    for name in (*build_native.HEADERS, *sources):
        shutil.copy(build_native.HERE / name, folder)
    if old:
        (faulty,) = (path for path in folder.iterdir() if old in path.read_text(encoding="utf-8"))
        faulty.write_text(faulty.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    (folder / "width.cpp").write_text(WIDTH, encoding="utf-8")
    flags = build_native.LEVELS[platform.machine()][LEVEL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_native, "HERE", folder)
        patch.setattr(build_native, "SOURCES", (*sources, "width.cpp"))
        patch.setattr(build_native, "LEVELS", {platform.machine(): {LEVEL: flags}})
        assert build_native.build() == {}
        patch.setattr(native, "levels", lambda: (LEVEL,))
        native.library.cache_clear()
        try:
            yield
        finally:
            native.library.cache_clear()
