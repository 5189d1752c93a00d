"""Compiling the CPU ops: what is left where there is a compiler, and where there is none."""

import platform
import shutil

import pytest

from slant_kernels import build_native, native


@pytest.fixture(params=["torch"], autouse=True)
def path(request):
    """One path only."""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the sources, with one level to compile, beside a library of older sources."""
    for name in (*build_native.HEADERS, *build_native.SOURCES):
        shutil.copy(build_native.HERE / name, tmp_path)
    (tmp_path / "native.any.00000000.so").touch()
    monkeypatch.setattr(build_native, "HERE", tmp_path)
    monkeypatch.setattr(build_native, "LEVELS", {platform.machine(): {"any": ()}})
    return tmp_path


def test_without_a_compiler_nothing_is_left_and_the_reason_told(sources, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    assert build_native.build() == {"any": "no-such-compiler: No such file or directory"}
    assert not list(sources.glob("native.*"))
    build_native.main()
    out, err = capsys.readouterr()
    assert "no-such-compiler" in err
    assert out == "nothing was compiled\n"


def test_a_compiler_that_fails_is_quoted(sources, monkeypatch):
    monkeypatch.setenv("CXX", "sh -c 'echo wrong flag >&2; exit 3'")
    assert build_native.build() == {"any": "wrong flag"}
    assert not list(sources.glob("native.*"))


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_library_is_of_its_sources(sources, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert build_native.build() == {}
    assert list(sources.glob("native.*")) == [build_native.library("any")]
    with (sources / "vectors.h").open("a", encoding="utf-8") as file:
        file.write("\n// changed\n")
    assert not build_native.library("any").exists()


def test_torch_can_be_asked_for(monkeypatch):
    monkeypatch.delenv("SLANT_NATIVE", raising=False)
    monkeypatch.setattr(native, "levels", lambda: ("avx2",))
    assert native.level() == "avx2"
    monkeypatch.setenv("SLANT_NATIVE", "0")
    assert native.level() is None
