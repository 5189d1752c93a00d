"""Files that are complete or absent, whatever stops a run."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slant.files import replacing, sync_folder, write_whole

KILLED = """
import os, signal, sys
from slant.files import replacing
os.getpid, pid = lambda: 1, os.getpid()  # as in a container
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(pid, signal.SIGKILL)
"""


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError):
        write_whole(path, (memoryview(bytes(1 // left)) for left in (1, 0)))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"a"}


def test_what_a_killed_run_leaves_stops_no_later_one(tmp_path, monkeypatch):
    path = tmp_path / "a"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    assert not path.exists()
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert write_whole(path, b"whole")[0] == 5
    assert path.read_bytes() == b"whole"


def test_a_training_that_goes_on_removes_what_it_left(tmp_path):
    from slant.training.run import begin

    begin(tmp_path / "out.partial", {"recipe": 1})
    (tmp_path / "out.partial" / "adapter").mkdir()
    for left in (".split.csv.01234567.part", "adapter/.adapter_model.safetensors.01234567.part"):
        (tmp_path / "out.partial" / left).touch()
    begin(tmp_path / "out.partial", {"recipe": 1})
    assert names(tmp_path / "out.partial") == {"plan.json", "adapter"}
    assert names(tmp_path / "out.partial" / "adapter") == set()


def test_of_two_writers_at_once_one_wins_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a"
    barrier = threading.Barrier(2)

    def write(letter):
        with replacing(path) as file:
            for _ in range(100):
                file.write(letter * 1000)
                file.flush()
                barrier.wait()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"x" * 100_000, b"y" * 100_000)
    assert names(tmp_path) == {"a"}


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"
    assert names(tmp_path / "elsewhere") == {"file"}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_a_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_a_long_name(tmp_path):
    for name in ("a" * 250, "🙂" * 60):
        write_whole(tmp_path / name, b"")
    assert len(names(tmp_path)) == 2


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs /dev/fd")
def test_a_pipe_is_written_to(tmp_path):
    """As the shell names it: --output >(gzip > out.gz)."""
    ends = os.pipe()
    write_whole(f"/dev/fd/{ends[1]}", b"through")
    os.close(ends[1])
    with os.fdopen(ends[0], "rb") as file:
        assert file.read() == b"through"


def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    """Some file systems refuse it, and the file is whole none the less; a failing disk is another matter."""
    synced = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    code = errno.EINVAL
    write_whole(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
