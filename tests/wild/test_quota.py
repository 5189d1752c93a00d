"""The CPU quota of a container, from files as Linux shows them."""

import json
import re

import pytest
import torch

from slant.cli.app import run
from slant.runtime import resolved
from slant.runtime.quota import cpu_quota


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/../x\n", {"cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/d\n1:name=s:/\n", {"cpu/d/cpu.cfs_quota_us": "250000", "cpu/d/cpu.cfs_period_us": "100000"}, 3),  # noqa: E501
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1", "cpu/d/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu,cpuacct:/gone\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("0::/\n", {"cpu.max": ""}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("nonsense", {"cpu.max": "x y"}, None),
    ],
)  # fmt: skip
def test_the_quota(tmp_path, groups, files, cpus):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert cpu_quota(tmp_path) == cpus


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path) is None


def test_threads_follow_it_unless_they_are_given(monkeypatch):
    """As in onyx-dot-app/onyx#12351, ollama/ollama#17916."""
    monkeypatch.setattr(resolved, "cpu_quota", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    try:
        assert resolved.use_threads(None) == 1
        assert torch.get_num_threads() == 2  # the program's own
        assert resolved.use_threads(2) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert resolved.use_threads(None) == 2
    finally:
        torch.set_num_threads(1)


def test_bench_measures_and_reports_as_many(monkeypatch, capsys):
    monkeypatch.setattr(resolved, "cpu_quota", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    try:
        assert run(["bench", "demo", "--device=cpu", "--lengths=100", "--texts=1", "--seconds=0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["machine"]["threads"] == 1
    finally:
        torch.set_num_threads(1)


def test_inspect_predicts_with_as_many(monkeypatch, capsys):
    """In int8 and fp32 a batch's memory grows with the threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = {}
    for quota in (1, 2):
        monkeypatch.setattr(resolved, "cpu_quota", lambda quota=quota: quota)
        torch.set_num_threads(2)
        try:
            assert run(["inspect", "demo"]) == 0
        finally:
            torch.set_num_threads(1)
        found[quota] = " ".join(capsys.readouterr().out.split())
        assert f"{quota} CPU threads" in found[quota]
    tables = [re.search("Predicted memory.*batches of", text)[0] for text in found.values()]
    assert tables[0] != tables[1]
