"""Checks of correctness, without a GPU: they run and are right; a fault is called wrong, and stops no other."""

import json
import math
import sys
import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
from gpu import correct, correct_delta, correct_large, correct_model, correct_ops, findings, kernels
from gpu.correct import GROUPS, Part, Report
from gpu.findings import Check, Finding, Place
from slant_kernels import delta_rule_kernel, launch, swiglu

PLACE = Place(dry=True)


def rows_of(checks):
    with PLACE.interpreter():
        return [row for check in checks for row in correct.judged("group", check)]


def chosen(*names):
    """The first check of each op."""
    found = {check.name: check for check in reversed(correct_ops.checks(PLACE))}
    return [found[name] for name in names]


def skipping(monkeypatch, name):
    """A kernel that is never launched: what it should write stays as it was."""
    real = launch.launch
    monkeypatch.setattr(
        launch,
        "launch",
        lambda kernel, *rest, **named: None if name in kernel.__name__ else real(kernel, *rest, **named),
    )


def test_a_kernel_that_writes_nothing_is_wrong_and_the_others_are_judged(monkeypatch):
    skipping(monkeypatch, "swiglu")
    rows = rows_of(chosen("rms_norm", "swiglu", "digit_head"))
    assert [row["right"] for row in rows] == [True, False, True]
    assert rows[1]["error"] is None
    assert "nan" in rows[1]["note"]


def test_a_kernel_that_rounds_twice_as_coarsely_is_wrong(monkeypatch):
    real = correct_ops.swiglu.swiglu

    def coarse(x):
        y = real(x)
        return ((y.view(torch.int16) & -8).view(torch.bfloat16)) if x.dtype == torch.bfloat16 else y

    assert rows_of(chosen("swiglu"))[0]["right"]
    (check,) = chosen("swiglu")
    place, case = check.run.args
    broken = Check("swiglu", "", "bf16", lambda: correct_ops.judged(place, replaced(case, coarse)))
    (row,) = rows_of([broken])
    assert not row["right"]
    assert row["bound"] < row["error"] < 0.1


def replaced(case, run):
    return replace(case, run=run)


def test_a_race_in_the_delta_rule_is_wrong(monkeypatch):
    """A second call that answers otherwise by a bit."""
    real, calls = delta_rule_kernel.delta_rule_chunks, []

    def racing(*args):
        o, S = real(*args)
        calls.append(o)
        return (torch.nextafter(o, torch.full_like(o, 9)) if len(calls) % 2 else o), S

    check = next(check for check in correct_delta.checks(PLACE) if check.name == "delta_rule equal keys")
    monkeypatch.setattr("slant_kernels.delta_rule.delta_rule_chunks", racing)
    (row,) = rows_of([check])
    assert not row["right"]
    assert "twice" in row["note"]


def test_the_delta_rule_runs_in_the_configuration_that_is_asked_for(monkeypatch):
    used = []
    monkeypatch.setattr(launch, "launch", lambda kernel, grid, config, *args, **named: used.append(config))
    for target in ("sm_90", "sm_80"):
        found = correct_delta.configurations(target)
        assert len(found) == len({(config.blocks["BV"], config.num_warps, config.num_stages) for _, config, _ in found})
        assert {name for names, _, _ in found for name in names.split(", ")} == {
            " ".join(filter(None, row)) for row in delta_rule_kernel.SERIAL.rows
        }
        assert target in found[0][0]
        for _, config, dtype in found:
            inputs, state = correct_delta.random(PLACE, (1, 1, 16), dtype, 20)
            correct_delta.forced(PLACE, config, inputs, state, keep=True)
            assert used[-1] is config


@pytest.mark.parametrize("group", ["large", "model"])
def test_a_last_text_or_a_replay_that_answers_otherwise_is_wrong(group, monkeypatch):
    if group == "large":
        real = swiglu.swiglu
        keep = torch.tensor([1, 1, 0]).view(-1, 1, 1)
        check = next(check for check in correct.checks("large", PLACE, 1) if check.name == "swiglu")
        case = replaced(check.run.args[1], lambda x: real(x) * keep if len(x) > 1 else real(x))
        broken = Check("", "", "", lambda: correct_large.run(PLACE, case))
        assert [row["right"] for row in rows_of([check, broken])] == [True, False]
        return
    check = next(check for check in correct_model.checks(PLACE) if check.name == "twice, bf16")
    assert all(row["right"] for row in rows_of([check]))
    real, calls = correct_model.answers, []

    def drifting(*args):
        calls.append(1)
        return real(*args) + (1e-6 if len(calls) == 3 else 0)

    monkeypatch.setattr(correct_model, "answers", drifting)
    assert [row["right"] for row in rows_of([check])] == [True, False, True]


def test_a_check_that_fails_says_what_it_met():
    def fails():
        yield Finding(0.0, 1.0, "before")
        raise RuntimeError("no such thing")

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    rows = rows_of([Check("a", "s", "bf16", fails), Check("b", "s", "bf16", full)])
    assert [row.get("right") for row in rows] == [True, False, None]
    assert rows[1]["failure"].startswith("RuntimeError: no such thing\nTraceback")
    assert rows[2]["missing"] == "group: b, s: CUDA out of memory."


def test_bounds_are_what_rounding_makes():
    truth = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).double()
    rounded = truth.bfloat16()
    found = list(findings.compared([rounded], [truth]))
    assert [finding.share for finding in found] == [0.5, 0.5]
    rounded[3, 3] += 1  # one element of 4096
    assert [finding.right for finding in findings.compared([rounded], [truth])] == [False, False]
    assert not Finding(math.nan, 1.0).right
    assert findings.worst([Finding(0.0, 0.0), Finding(math.nan, 1.0), Finding(1.0, 2.0)])[0].share == math.inf


WORKER = """
import json, sys, time, os
first = int(sys.argv[sys.argv.index("--first") + 1])
def say(**what): print("@row " + json.dumps(what), flush=True)
say(planned=["a", "b", "c"])
for number in range(first, 3):
    say(begin=number)
    if number == 1:
        print("an illegal address", file=sys.stderr)
        sys.stderr.flush()
        {fault}
    about = dict(group="g", shape="", dtype="", error=0, bound=0, right=True, seconds=0, note="", failure="")
    say(check="abc"[number], **about)
    say(finished=number)
say(end=True)
"""


def follow(tmp_path, fault, seconds=20.0):
    report = Report({"time": "t"}, tmp_path)
    command = [sys.executable, "-c", WORKER.replace("{fault}", fault)]
    Part(GROUPS[0], "0/1", command, report, time.monotonic() + seconds).follow()
    status = report.close()
    path = tmp_path / "gpu_correct.jsonl"
    return status, [json.loads(line) for line in path.read_text().splitlines()]


def test_a_process_that_dies_goes_on_after_the_check_that_it_died_of(tmp_path, capsys):
    status, rows = follow(tmp_path, "os._exit(7)")
    assert (status, [(row["check"], row["right"]) for row in rows]) == (1, [("a", True), ("b", False), ("c", True)])
    assert "exit status 7" in rows[1]["failure"]
    assert "an illegal address" in rows[1]["failure"]
    assert "2 right, 1 wrong, 0 not run" in capsys.readouterr().out


def test_what_is_not_run_in_time_is_named(tmp_path, capsys):
    status, rows = follow(tmp_path, "time.sleep(60)", seconds=3.0)
    assert (status, len(rows)) == (0, 1)
    shown = capsys.readouterr().out
    assert "Not run: ops: b" in shown
    assert "Not run: ops: c" in shown
    assert "1 right, 0 wrong, 2 not run" in shown


def test_a_process_that_cannot_start_is_a_wrong_row(tmp_path):
    report = Report({"time": "t"}, tmp_path)
    Part(GROUPS[0], "0/1", [sys.executable, "-c", "import nothing_like_it"], report, time.monotonic() + 20).follow()
    assert report.close() == 1
    (row,) = [json.loads(line) for line in (tmp_path / "gpu_correct.jsonl").read_text().splitlines()]
    assert "nothing_like_it" in row["failure"]


@pytest.mark.slow
def test_all_checks_are_right_in_a_dry_run(tmp_path, capsys):
    assert correct.main(["--dry-run", "--out", str(tmp_path), "--seconds", "300"]) == 0
    assert " 0 wrong, 0 not run" in capsys.readouterr().out


def test_one_check_runs_in_a_process_of_its_own(tmp_path, capsys):
    assert correct.main(["--dry-run", "--group", "ops", "--check", "add_rms_norm", "--out", str(tmp_path)]) == 0
    assert "2 right, 0 wrong, 0 not run" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "gpu_correct.jsonl").read_text().splitlines()]
    assert {row["check"] for row in rows} == {"add_rms_norm", "add_rms_norm_fp8"}
    assert len({row["time"] for row in rows}) == 1
    assert rows[0].keys() >= {"commit", "torch", "triton", "group", "shape", "dtype", "error", "bound", "right"}


def test_processes_share_all_checks_and_each_configuration_is_compiled_in_one():
    for group in ("ops", "linear", "delta", "large"):
        found = correct.checks(group, PLACE, 1)
        parts = [correct.divided(found, group, index, 3) for index in range(3)]
        assert sorted(id(check) for part in parts for check in part) == sorted(map(id, found))
        assert all(parts) or group == "delta"
    assert {check.name for check in correct.checks("linear", PLACE, 1)} == set(correct.PRODUCTS)
    assert "quantize_rows" in {check.name for check in correct.checks("large", PLACE, 1)}
    ops = {check.name for group in ("ops", "linear") for check in correct.checks(group, PLACE, 1)}
    assert ops == {case.op for case in kernels.tiny_cases()}
