"""The cores that a process may use, from files as Linux shows them, and the threads of a real one on one CPU."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from slant import cores as module
from slant.cores import Cores, cores

PAIRS = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}  # 4 cores, as Linux numbers them
RANGES = {cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(4)}


@pytest.fixture
def linux(tmp_path):
    def write(siblings=None, nodes=None, quota=None):
        files = {
            f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in siblings.items()
        }
        files |= {f"sys/devices/system/node/node{i}/cpulist": text for i, text in enumerate(nodes or ())}
        if quota:
            files |= {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota}
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("siblings", "mask", "found"),
    [
        (PAIRS, range(8), 4),
        (PAIRS, {0, 4}, 1),
        (PAIRS, {0, 1, 5}, 2),
        (PAIRS, {0, 1, 2, 3}, 4),
        (RANGES, range(4), 2),
        (RANGES, {1, 2}, 2),
        ({}, range(6), 6),
        ({0: "0", 1: "nonsense", 2: ""}, range(3), 3),
    ],
)
def test_hyper_threads_of_a_core_count_once(linux, siblings, mask, found):
    made = cores(linux(siblings), mask)
    assert (made.cpus, made.cores, made.threads) == (len(mask), found, found)


def test_a_quota_is_the_less(linux):
    assert cores(linux(PAIRS, quota="150000 100000"), range(8)).threads == 2
    assert cores(linux(PAIRS, quota="900000 100000"), range(8)).threads == 4


@pytest.mark.parametrize(
    ("nodes", "mask", "found"), [((), {0}, 1), (("0-3", "4-7"), range(8), 2), (("0-3", "4-7"), {5}, 1)]
)
def test_nodes_of_the_mask(linux, nodes, mask, found):
    assert cores(linux({}, nodes), mask).nodes == found


def test_what_inspect_says():
    assert str(Cores(2, 2, None, 1)) == "2 cores"
    assert str(Cores(1, 1, 1, 1)) == "1 core, of which a control group allows the time of 1"
    assert str(Cores(8, 4, None, 2)) == "4 cores of 8 hyper-threads in 2 NUMA nodes"


def test_threads_that_openmp_binds_say_nothing_of_the_mask(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in module.BINDING:
        monkeypatch.delenv(name, raising=False)
    assert list(module.affinity()) == [0]
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert list(module.affinity()) == [0, 1]


COUNT = """
import json, os, sys, time
from slant.cli.app import run
from slant.cli.pools import limit_pools

if len(sys.argv) > 1:
    limit_pools()
    code = run(["score", sys.argv[1], "--model", "demo", "--device", "cpu", "--output", sys.argv[2], *sys.argv[3:]])
    assert code == 0
import torch

def count():
    time.sleep(0.05)  # a thread that has ended is shown for a moment
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
    return len([name for name in names if not name.startswith("jemalloc")])

print(json.dumps([min(count() for _ in range(10)), torch.get_num_threads()]))
"""


@pytest.mark.skipif(not shutil.which("taskset") or len(module.affinity()) < 2, reason="needs taskset and two CPUs")
def test_a_command_on_one_cpu_starts_no_pools(tmp_path):
    """Beside the main thread, the engine's own, and what each of OpenBLAS, rayon and OpenMP calls one thread."""
    table = tmp_path / "in.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["Rain."] * 64, "other": list(range(64))}), table)
    alone, threads = counted("taskset", "-c", "0", table=table, out=tmp_path / "a.parquet")
    assert threads == 1
    most = 4  # the main thread, the engine's, one that loads, and rayon's; those that have ended may not be shown
    assert alone <= most
    both, threads = counted(table=table, out=tmp_path / "b.parquet", more=["--threads=1"])
    assert threads == 1
    assert both <= most


def counted(*prefix, table, out, more=()):
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [*prefix, sys.executable, "-c", COUNT, table, out, *more]
    done = subprocess.run(list(map(str, command)), env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
