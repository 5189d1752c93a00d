"""What is published: an sdist and the wheel of it, with and without a C++ compiler, installed and run on their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = "import slant, slant_kernels.native as native; print(slant.__file__, native.level())"


def run(*command, **variables):
    """What it prints, with neither this checkout nor a setting of slant in the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRITON", "SLANT"))}
    done = subprocess.run(list(map(str, command)), env=kept | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy without what was compiled here, because a build compiles in place."""
    copy = tmp_path_factory.mktemp("source") / "slant"
    left = shutil.ignore_patterns(".[!g]*", ".git", "build", "dist", "__pycache__", "native.*.so")  # not .gitignore
    return shutil.copytree(ROOT, copy, ignore=left)


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run("env", f"--chdir={source}", sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    (made,) = folder.iterdir()
    return made


def wheel(sdist, folder, **variables):
    pip = sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder
    run(*pip, sdist, **variables)
    (made,) = folder.glob("*.whl")
    return made


def installed(made, folder):
    """The Python of an environment with the wheel, and with the libraries of this one but no slant of it."""
    venv.create(folder, with_pip=False)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", made)
    return python


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(True, marks=pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")),
        False,
    ],
    ids=["compiler", "no compiler"],
)
def test_a_wheel_of_the_sdist_runs_the_demo(source, sdist, tmp_path, compiler):
    made = wheel(sdist, tmp_path / "wheel", **({} if compiler else {"CXX": "/bin/false"}))
    assert made.name.endswith("-any.whl") != compiler
    packed = set(zipfile.ZipFile(made).namelist())
    for root in (source / "engine", source / "kernels"):
        assert packed >= {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    python = installed(made, tmp_path / "environment")
    where, level = run(python, "-c", INSTALLED).split()
    assert Path(where).is_relative_to(tmp_path / "environment")
    assert (level != "None") == compiler
    assert "texts/s" in run(python.with_name("slant"), "demo")
