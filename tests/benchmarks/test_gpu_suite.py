"""The GPU suite without a GPU: what it refuses, what its figures mean, and that its cases run."""

import argparse
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from rich.console import Console

pytest.importorskip("triton")
import gpu_suite
from gpu import device, kernel_cases, kernels, linear_cases, tune
from gpu.case import Case
from gpu.device import DryRun, Limits
from gpu.kernels import OURS, Bench
from gpu.peers import Peer
from harness.tables import cell
from slant_kernels import launch, norm
from slant_kernels.launch import Config

CPU = torch.device("cpu")
LIMITS = Limits(bytes_per_s=1e9, flops_per_s=1e12)


class Ticks(DryRun):
    """A device that runs every loop and says that each call took what ``cost`` says."""

    def __init__(self, cost):
        super().__init__()
        self.cost, self.order = cost, []

    def loop(self, run, sets, captured):
        for arguments in sets:
            run(*arguments)
        seconds = self.cost(run)

        def sample():
            self.order.append(run)
            return seconds

        return sample


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(launch, "on_gpu", lambda x: True)


def case(**changes):
    values = {"op": "double", "label": "3", "bytes": 24, "run": lambda x: 2 * x}
    return Case(**values | {"make": lambda device: (torch.ones(3),)} | changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_no_figure_without_a_gpu(capsys, tmp_path):
    assert gpu_suite.main(["--out", str(tmp_path)]) == 2
    assert "No CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.fixture
def stages(monkeypatch):
    """Stages that are programs of one line; those named to ``run`` run, one after the other."""

    def run(*programs, minutes=1.0, out):
        ran = []

        def command(arguments, **rest):
            name = arguments[arguments.index("--run") + 1]
            ran.append((name, arguments[arguments.index("--checks") + 1]))
            return started([sys.executable, "-c", dict(programs)[name]], **rest)

        monkeypatch.setattr(gpu_suite, "STAGES", tuple(gpu_suite.Stage(name, 1.5) for name, _ in programs))
        monkeypatch.setattr(subprocess, "Popen", command)
        status = gpu_suite.main(["--dry-run", "--minutes", str(minutes), "--out", str(out)])
        return status, ran

    started = subprocess.Popen
    return run


def test_a_stage_that_fails_or_hangs_stops_no_other(stages, capsys, tmp_path):
    status, ran = stages(
        ("limits", "import time; time.sleep(60)"),
        ("correct", "1 / 0"),
        ("bf16", "import sys; sys.exit(0)"),
        out=tmp_path,
    )
    assert (status, [name for name, _ in ran]) == (1, ["limits", "correct", "bf16"])
    shown = capsys.readouterr().out
    assert "limits: ended after 2 s" in shown or "limits: ended after 1 s" in shown
    assert "correct: failed" in shown
    assert "bf16: done" in shown
    assert "Not all right: limits, correct." in shown


def test_what_the_checks_said_is_told_to_the_later_stages(stages, tmp_path):
    rows = "".join(json.dumps({"time": "t", "right": right}) + "\\n" for right in (True, False))
    write = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'gpu_correct.jsonl').write_text('{rows}')"
    status, ran = stages(("limits", ""), ("correct", write), ("bf16", ""), out=tmp_path)
    assert (status, ran) == (0, [("limits", "not run"), ("correct", "not run"), ("bf16", "1 wrong")])


def test_checks_that_leave_no_rows_are_not_those_of_an_earlier_run(stages, tmp_path):
    (tmp_path / gpu_suite.CHECKS).write_text(json.dumps({"time": "before", "right": True}) + "\n")
    _, ran = stages(("correct", "1 / 0"), ("bf16", ""), out=tmp_path)
    assert ran == [("correct", "not run"), ("bf16", "not run")]


def test_a_stage_for_which_there_is_no_time_is_named(stages, capsys, tmp_path):
    assert stages(("limits", ""), minutes=0.01, out=tmp_path) == (0, [])
    assert "Not started, for want of time: limits." in capsys.readouterr().out


def test_cases_run_and_their_bytes_are_their_tensors(capsys):
    """Every op once, with its peers, through Triton's interpreter."""
    options = argparse.Namespace(op=None, shape=None)
    ops = {case.op: case for case in reversed(kernels.tiny_cases()) if case.timed}  # the smallest of each
    assert kernels.dry_run(options, Console(), list(ops.values())) == 0
    assert f"{len(ops)} cases ran, 0 of them with wrong bytes" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_all_cases_run(capsys):
    assert gpu_suite.main(["--dry-run", "--stage", "kernels"]) == 0


def test_wrong_bytes_are_caught(capsys):
    options = argparse.Namespace(op=None, shape=None)
    assert kernels.dry_run(options, Console(), [case(bytes=25)]) == 1
    assert "1 more bytes stated" in capsys.readouterr().out


def test_no_case_draws_zeros():
    to_write_in = "quantized_linear", "dequantize", "swiglu_fp8"
    for one in kernels.tiny_cases():
        for tensor in device.tensors(one.make(CPU)):
            assert one.op in to_write_in or tensor.any(), one.op


def test_real_cases_cover_the_model():
    cases = kernel_cases.cases()
    assert len({(case.op, case.label) for case in cases}) == len(cases)
    assert linear_cases.matrices(kernel_cases.MODEL)["gate_up"] == (18432, 2560)
    swiglu = next(case for case in cases if (case.op, case.label) == ("swiglu", "1 x 2048"))
    assert swiglu.bytes == 2048 * 3 * 9216 * 2
    rule = next(case for case in cases if (case.op, case.label) == ("delta_rule", "1 x 2048"))
    assert rule.flops == 2048 * 32 * (2 * 64 * 5 * 128 + 6 * 128 * 128)


def test_rows_hold_rates_and_the_limit_that_binds():
    bench = Bench(Ticks(lambda run: 1e-6), LIMITS)
    peers = (Peer("other", lambda x: x + x, captured=False),)
    (ours, other), _ = bench.measure(case(bytes=500, flops=10_000, peers=peers))
    assert (ours["by"], other["by"], ours["cuda_graph"], other["cuda_graph"]) == (OURS, "other", True, False)
    assert ours["microseconds"] == {"p20": 1, "p50": 1, "p80": 1}
    assert ours["bytes_per_s"] == pytest.approx(500e6)
    assert ours["flops_per_s"] == pytest.approx(1e10)
    assert (ours["bound_by"], ours["of_limit"]) == ("bytes", 0.5)
    assert LIMITS.binds(1, 10_000) == "flops"
    assert LIMITS.floor(1, 10_000) == pytest.approx(1e-8)
    json.dumps(ours)


def test_peers_that_cannot_run_say_why():
    def fails(x):
        raise RuntimeError("no such thing\nmore")

    peers = Peer("absent", fails, package="no_such_package"), Peer("broken", fails)
    rows, reasons = Bench(Ticks(lambda run: 1e-6), LIMITS).measure(case(peers=peers))
    assert reasons == {"absent": "no_such_package is not installed", "broken": "RuntimeError: no such thing"}
    assert [row["by"] for row in rows] == [OURS]


def test_our_own_failure_ends_the_run():
    def fails(x):
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        Bench(Ticks(lambda run: 1e-6), LIMITS).measure(case(run=fails))


def test_tuning_starts_where_most_time_is_lost():
    cases = [case(op=op) for op in ("swiglu", "delta_rule", "norm")]
    about = {"measure": "waterfall", "batch": "8 x 1024"}
    rows = [
        about | {"time": 1, "op": "norm", "microseconds": 900, "limit_microseconds": 1},
        about | {"time": 2, "op": "swiglu", "microseconds": 30, "limit_microseconds": 20},
        about | {"time": 2, "op": "delta_rule", "microseconds": 25, "limit_microseconds": 2},
    ]
    found = kernels.worst_first(cases, rows)
    assert [one.op for one in found] == ["delta_rule", "swiglu"]


def test_contenders_take_turns():
    clock = Ticks(lambda run: 1e-3)
    loops = {name: clock.loop(name.format, [()], True) for name in "ab"}
    clock.order.clear()
    samples = device.turns(loops, seconds=0, fewest=3)
    assert [len(found) for found in samples.values()] == [3, 3]
    assert [run.__self__ for run in clock.order] == ["a", "b"] * 4  # the first round is not kept


@pytest.fixture
def a_gpu(monkeypatch):
    """The run after the tests, with a device of straw: two cases, a microsecond each."""
    about = {"gpu": "straw", "driver": "1", "l2_bytes": 0, "sm_clock": "1980"}
    monkeypatch.setattr(kernels, "gpu", lambda: about)
    monkeypatch.setattr(kernels, "Gpu", lambda: Ticks(lambda run: 1e-6))
    monkeypatch.setattr(kernels, "cases", lambda: [case(), case(op="other"), case(op="compiled", timed=False)])
    monkeypatch.setattr(Limits, "measure", lambda device: LIMITS)


def gpu_options(tmp_path, **changes):
    values = {"checks": "all right", "commit": None, "op": None, "shape": None, "dry_run": False}
    return argparse.Namespace(**values | {"seconds": 0, "out": tmp_path} | changes)


def test_a_run_appends_rows_with_what_made_them(a_gpu, tmp_path):
    console = Console(quiet=True)
    for commit in (None, "abc"):
        assert kernels.run(gpu_options(tmp_path, commit=commit), console, math.inf) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu_kernels.jsonl").read_text().splitlines()]
    assert [row["op"] for row in rows] == ["double", "other"] * 2
    assert rows[0].items() >= {"gpu": "straw", "driver": "1", "sm_clock": "1980", "checks": "all right"}.items()
    assert rows[0].keys() >= {"commit", "torch", "triton", "time", "copy_bytes_per_s", "matmul_flops_per_s"}
    assert rows[2]["commit"] == "abc"


def test_a_run_names_what_it_left_out(a_gpu, tmp_path, capsys):
    assert kernels.run(gpu_options(tmp_path), Console(), -math.inf) == 0
    assert "2 cases were not timed, from double 3 on." in capsys.readouterr().out
    assert kernels.run(gpu_options(tmp_path, op=["none"]), Console(), math.inf) == 2
    assert "ops are double, other, compiled" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "sets"), [(1000, 1 + 1), (10, 1 + 20), (1, device.MOST_SETS)])
def test_input_sets_exceed_the_cache(size, sets):
    counter = itertools.count()
    assert len(device.input_sets(lambda: (next(counter),), size, cache=100)) == sets
    assert next(counter) == sets


def test_limits_count_both_directions():
    clock = Ticks(lambda run: 1e-3)
    limits = Limits.measure(clock, copied=1 << 10, side=8)
    assert limits.bytes_per_s == pytest.approx(2 * 1024 / 1e-3)
    assert limits.flops_per_s == pytest.approx(2 * 8**3 / 1e-3)


def test_tuning_finds_the_best_configuration_and_prints_its_row(monkeypatch, on_cpu):
    """With a cost that is least at 2 warps; the interpreter takes any number of them."""
    used, real = [], launch.launch

    def noted(kernel, grid, config, *args, **constants):
        used.append(config)
        real(kernel, grid, config, *args, **constants)

    def cost(run):
        return 1e-6 * (1 + abs(math.log2(used[-1].num_warps) - 1))

    monkeypatch.setattr(launch, "launch", noted)
    cases = [one for one in kernels.tiny_cases() if one.op == "rms_norm"][:1]
    (search,) = tune.searches(Ticks(cost), 0, 0, cases, Console(quiet=True))
    assert (search.slot, search.cases) == (("norm.ROW", ""), cases)
    rows = []
    best = search.sweep(tune.grid((1, 2, 8)), math.inf, rows.append)
    assert best == Config(num_warps=2)
    assert [(row["table"], row["warps"]) for row in rows] == [("norm.ROW", warps) for warps in (4, 1, 2, 8)]
    assert min(rows, key=lambda row: row["microseconds"]["rms_norm 1 x 12"])["warps"] == 2
    row = tune.row(search.slot[1], best, "sm_90", "a GPU")
    assert row == '("", "sm_90"): Config(num_warps=2, num_stages=1, measured="a GPU"),'
    assert eval("{" + row + "}", {"Config": Config})["", "sm_90"] == Config(num_warps=2, measured="a GPU")


def test_a_configuration_that_answers_otherwise_is_out():
    one = case(run=lambda x: x * norm.ROW.find(CPU).num_warps)
    (search,) = tune.searches(Ticks(lambda run: 1e-6), 0, 0, [one], Console(quiet=True))
    assert search.try_out(search.start) == pytest.approx(1e-6)
    assert search.try_out(Config(num_warps=2 * search.start.num_warps)) == math.inf
    assert search.sweep(tune.grid((1, 2, 8)), math.inf) is search.start


def test_candidates_are_all_combinations_and_name_tables_that_exist():
    found = tune.grid((4, 8), (1, 2), registers=(0, 128), BM=(16, 32), BN=(64,))
    assert len(set(map(tune._key, found))) == len(found) == 16
    assert found[-1] == Config({"BM": 32, "BN": 64}, 8, 2, registers=128)
    for slot, configs in tune.CANDIDATES.items():
        where, _, shape_class = slot.partition(" ")
        rows = tune.named_tables()[where].rows
        committed = next(config for (name, _), config in rows.items() if shape_class in ("", name))
        assert all(config.blocks.keys() == committed.blocks.keys() for config in configs), slot
        assert tune.candidates((where, shape_class)) == configs


def test_a_cell_is_in_its_unit_and_empty_without_a_value():
    row = {"size": 2.5e9, "seconds": {"p50": 0.00125}, "share": 0.251, "none": None, "nan": math.nan, "name": "x"}
    columns = (
        "size:.2f/1e9",
        "seconds.p50:.2f/1e-3",
        "share:.0%",
        "name",
        "none",
        "nan:.1f",
        "absent",
        "absent.p50:.1f",
    )
    assert [cell(row, column) for column in columns] == ["2.50", "1.25", "25%", "x", "", "", "", ""]
