"""Products in panels compiled with one fault each: the checks of ``test_panel_products`` see every one."""

import platform
import shutil

import pytest
import torch
from test_panel_products import assert_product, made, randn

from slant_kernels import build_native, native

FAULTS = {
    "none": ("", ""),
    "the last panel is written whole": ("columns < PANEL ? part : out", "columns < 0 ? part : out"),
    "a strip starts from zero": ("k0 == 0);", "true);"),
    "the first strip adds to what was there": ("k0 == 0);", "false);"),
    "groups of 32": ("(k0 + k) / args.group)", "(k0 + k) / RUN)"),
    "the zero is added": ("- zero) * scale", "+ zero) * scale"),
    "fields in another order": ("8 * (at % 4) + width * (at / 4)", "8 * (at / 4) + width * (at % 4)"),
    "three bits without the upper": ("(field(2, 1, k) & 1) << 2", "(field(2, 1, k) & 0) << 2"),
    "halves exchanged": ("= w << 16;", "= w & 0xffff0000;"),
    "rounded towards zero": ("(b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000", "b & 0xffff0000"),
    "ties away from zero": ("0x7fff + ((b >> 16) & 1)) & 0xffff0000", "0x8000) & 0xffff0000"),
    "not rounded": ("ROUND ? rounded(first) : first", "first"),
    "a strip's depth of the first": (
        "return args.K - k0 < most ? args.K - k0 : most;",
        "return args.K < most ? args.K : most;",
    ),
    "x of the first strip": ("kernel(place(tile, k0)", "kernel(place(tile, 0)"),
    "the second half of a panel from the first": ("right = operands(strip + LANES)", "right = operands(strip)"),
}
SOURCES = ("panels.cpp", "packing.cpp", "delta_net.cpp")  # the last says how wide a panel is
LEVEL = "avx2"  # compiled and run wherever tests of x86 are

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(
        LEVEL not in build_native.LEVELS.get(platform.machine(), {}) or not native.levels(), reason="needs AVX2"
    ),
]


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


def check():
    """What the tests of products check, at a few sizes that reach every branch."""
    for dtype in (torch.float32, torch.bfloat16):
        for bits, group_size in ((2, 64), (3, 128), (4, 32), (8, 64), (16, 0)):
            matrix, weight = made(bits, group_size, 35, 672)
            for rows in (3, 700):
                x = randn(rows, 672, dtype=dtype, seed=1)
                wide = torch.full((rows, 64), 7.0, dtype=dtype, device="cpu")
                matrix.multiply(x, wide[:, :35])
                assert_product(wide[:, :35], x, weight)
                assert (wide[:, 35:] == 7).all()
            x = torch.eye(672, dtype=dtype, device="cpu")
            assert torch.equal(matrix.multiply(x), weight.to(dtype).T)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault, tmp_path, monkeypatch):
    for name in (*build_native.HEADERS, *SOURCES):
        shutil.copy(build_native.HERE / name, tmp_path)
    old, new = FAULTS[fault]
    source = (tmp_path / "panels.cpp").read_text(encoding="utf-8")
    assert old in source
    (tmp_path / "panels.cpp").write_text(source.replace(old, new, 1), encoding="utf-8")
    flags = build_native.LEVELS[platform.machine()][LEVEL]
    monkeypatch.setattr(build_native, "HERE", tmp_path)
    monkeypatch.setattr(build_native, "SOURCES", SOURCES)
    monkeypatch.setattr(build_native, "LEVELS", {platform.machine(): {LEVEL: flags}})
    assert build_native.build() == {}
    native.library.cache_clear()
    monkeypatch.setattr(native, "levels", lambda: (LEVEL,))
    try:
        if fault == "none":
            check()
        else:
            with pytest.raises(AssertionError):
                check()
    finally:
        native.library.cache_clear()
