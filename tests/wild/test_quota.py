"""What a control group leaves of CPUs and memory, from files as Linux shows them."""

import json
import re

import pytest
import torch

from slant.cli.app import run
from slant.control_groups import Room, cpu_quota, memory_room
from slant.cores import Cores
from slant.errors import SlantError
from slant.model.weights import Weights
from slant.options import LoadOptions
from slant.runtime import free_memory, resolved
from slant.runtime.free_memory import host_memory, memory_limit
from slant.runtime.resolved import resolve_options
from slant_kernels import native


@pytest.fixture
def linux(tmp_path):
    """Writes what ``proc`` and ``sys`` show; gives their root."""

    def write(groups, files, meminfo=None):
        shown = {f"sys/fs/cgroup/{name}": content for name, content in files.items()} | {"proc/self/cgroup": groups}
        if meminfo is not None:
            shown["proc/meminfo"] = meminfo
        for name, content in shown.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        return tmp_path

    return write


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
def test_the_quota(linux, groups, files, cpus):
    assert cpu_quota(linux(groups, files)) == cpus


STAT = "anon 300\nfile 999\nshmem 50\ninactive_file 20\nactive_file 60\nslab_reclaimable 5\n"
TOTALS = "cache 1\ninactive_file 1\nactive_file 1\ntotal_inactive_file 30\ntotal_active_file 40\n"


@pytest.mark.parametrize(
    ("group", "files", "free", "limit", "source"),
    [
        ("0::/", {"max": 1000, "current": 400}, 600, 1000, "max"),
        ("0::/", {"max": 1000, "current": 400, "stat": STAT}, 685, 1000, "max"),
        ("0::/", {"max": "max", "high": 900, "current": 100}, 800, 900, "high"),
        ("0::/", {"max": 700, "high": 900, "current": 100}, 600, 700, "max"),
        ("0::/a/b", {"a/b/max": "max", "a/max": 500, "a/current": 90}, 410, 500, "a/max"),
        ("0::/a", {"a/max": 600, "max": 900, "current": 800}, 100, 900, "max"),
        ("0::/", {"max": 100, "current": 400}, 0, 100, "max"),
        ("4:memory:/d\n0::/", {"d/limit_in_bytes": 9, "d/usage_in_bytes": 3}, 6, 9, "d/limit_in_bytes"),
        ("4:memory:/", {"limit_in_bytes": 900, "usage_in_bytes": 300, "stat": TOTALS}, 670, 900, "limit_in_bytes"),
        ("4:memory:/gone", {"limit_in_bytes": 1000}, 1000, 1000, "limit_in_bytes"),
    ],
)  # fmt: skip
def test_the_room_in_memory(linux, group, files, free, limit, source):
    top = "memory/" if group[0] == "4" else ""

    def path(name):
        folder, _, name = name.rpartition("/")
        return f"{top}{folder}{'/' if folder else ''}memory.{name}"

    root = linux(group, {path(name): str(content) for name, content in files.items()})
    room = memory_room(root)
    assert (room.free, room.limit) == (free, limit)
    assert room.source == f"the control group ({root}/sys/fs/cgroup/{path(source)})"


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/", {}),
        ("0::/", {"memory.max": "max", "memory.current": "5"}),
        ("0::/", {"memory.max": "x"}),
        ("4:memory:/d", {"memory/d/memory.limit_in_bytes": "9223372036854771712"}),
        ("4:cpu:/d", {"memory/d/memory.limit_in_bytes": "5"}),
    ],
)
def test_no_limit_of_memory(linux, groups, files):
    assert memory_room(linux(groups, files)) is None


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert memory_room(tmp_path) is None
    assert host_memory(tmp_path) is None


def test_the_least_of_machine_and_group_is_free(linux):
    meminfo = "MemTotal:   4 kB\nMemFree:   1 kB\nMemAvailable:   3 kB\nHugePages_Total:       0"
    assert host_memory(linux("0::/", {}, meminfo)) == Room(3072, 4096, "the machine")
    assert host_memory(linux("0::/", {"memory.max": "2000"}, meminfo)).free == 2000
    assert host_memory(linux("0::/", {"memory.max": "5000"}, meminfo)).free == 3072
    assert host_memory(linux("0::/", {"memory.max": "5000"}, "MemTotal: 4 kB")).free == 5000


def test_the_limit_is_what_is_given_or_most_of_what_is_free(monkeypatch):
    def limit(**options):
        return memory_limit(resolve_options(LoadOptions(device="cpu", **options), max_positions=99, is_artifact=False))

    monkeypatch.setattr(free_memory, "host_memory", lambda: Room(1000, 2000, "the bank"))
    assert limit(memory="4GB") == (4 * 10**9, "")
    assert limit(memory="auto") == limit(memory=None) == (800, "what slant takes of the 1 kB that the bank has free")
    monkeypatch.setattr(free_memory, "host_memory", lambda: Room(10**11, 10**12, "the bank"))
    assert limit()[0] == 92 * 10**9 - 512 * 2**20
    monkeypatch.setattr(free_memory, "host_memory", lambda: None)
    assert limit() == (None, "")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(monkeypatch, capsys):
    """As in huggingface/text-embeddings-inference#405 and vllm-project/vllm#47372, which are killed."""
    monkeypatch.setattr(free_memory, "host_memory", lambda: Room(10**6, 2 * 10**6, "the control group (x)"))
    monkeypatch.setattr("slant.engine.load_runner", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(Weights, "dense", lambda *_: pytest.fail("a part of the model was loaded"))
    with pytest.raises(
        SlantError, match=r"^800 kB, what slant takes of the 1 MB that the control group \(x\) has free, is not"
    ):
        resolved_engine()
    assert run(["bench", "demo", "--device=cpu"]) == 2
    assert "the smallest configuration, resident, needs" in capsys.readouterr().err


def test_a_smaller_tier_is_taken(monkeypatch):
    monkeypatch.setattr(free_memory, "host_memory", lambda: None)
    wide = resolved_engine(weights="hqq4")
    assert wide.tier.token_budget == 2048
    monkeypatch.setattr(free_memory, "host_memory", lambda: Room(int(wide.tier.peak / 0.8) - 1, 10**9, "x"))
    narrow = resolved_engine(weights="hqq4")
    assert narrow.tier.peak < wide.tier.peak


def resolved_engine(**options):
    from slant.demo import FOLDER
    from slant.engine import Engine

    return Engine.load(FOLDER, device="cpu", max_tokens=512, **options)


def quota(monkeypatch, threads):
    monkeypatch.setattr(resolved, "cores", lambda: Cores(8, 8, threads, 1))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_threads_follow_it_unless_they_are_given(monkeypatch):
    """As in onyx-dot-app/onyx#12351, ollama/ollama#17916."""
    quota(monkeypatch, 1)
    torch.set_num_threads(2)
    try:
        assert resolved.use_threads(None) == 1
        assert torch.get_num_threads() == 2  # the program's own
        assert resolved.use_threads(2) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert resolved.use_threads(None) == 2
    finally:
        torch.set_num_threads(1)


def test_more_threads_than_cores_are_told_once(monkeypatch, caplog):
    quota(monkeypatch, 1)
    resolved._too_many.cache_clear()
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            resolved.use_threads(2)
        assert [record.getMessage() for record in caplog.records] == [
            "2 CPU threads on 1 core wait for each other; give 1 or fewer."
        ]
        resolved.use_threads(1)
    finally:
        torch.set_num_threads(1)
        resolved._too_many.cache_clear()
    assert len(caplog.records) == 1


def test_bench_measures_and_reports_as_many(monkeypatch, capsys):
    quota(monkeypatch, 1)
    torch.set_num_threads(2)
    try:
        assert run(["bench", "demo", "--device=cpu", "--lengths=100", "--texts=1", "--seconds=0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["machine"]["threads"] == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(native.level() is None, reason="what torch's ops hold does not depend on threads")
def test_inspect_predicts_with_as_many(monkeypatch, capsys):
    """In int8 and fp32 a batch's memory grows with the threads."""
    found = {}
    for threads in (1, 2):
        quota(monkeypatch, threads)
        torch.set_num_threads(2)
        try:
            assert run(["inspect", "demo"]) == 0
        finally:
            torch.set_num_threads(1)
        found[threads] = " ".join(capsys.readouterr().out.split())
        assert f"{threads} CPU threads" in found[threads]
    tables = [re.search("Predicted memory.*batches of", text)[0] for text in found.values()]
    assert tables[0] != tables[1]
