"""The comparison with peers: the protocol of its workers, the order and limits of its rounds, and what its rows say."""

import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import classifier
import compare_peers
import pictures
from compare_peers import agreement
from harness.batching import by_length
from harness.process import Pool, Reply, Worker, WorkerError, available
from harness.timing import Timing, measure, ratio
from peers.systems import ARTIFACT, BASE, CHECKPOINT, SYSTEMS, System
from peers.workloads import Workload, posts, warm_up, whole, workloads
from slant.prompt.prompt import Prompt
from texts import Speech

FAKE = """
import os, sys, time
PACKAGES = {"load": ("numpy", "no-such-package")}

def load(options):
    print("noise on stdout")
    if options.get("broken"):
        raise ValueError("this model\\n  is broken")
    held = bytearray(options.get("hold", 1))

    def score(texts, batch):
        print("more noise")
        if texts[0] == "raise":
            raise KeyError("a bad text")
        if texts[0] == "die":
            sys.stderr.write("a last word\\n")
            os._exit(3)
        if texts[0] == "sleep":
            time.sleep(60)
        if texts[0] == "allocate":
            bytes(bytearray(b"x" * 100_000_000))
        return [[float(len(text)), float(batch), options["scale"]] for text in texts]

    return score
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Starts workers of a fake backend."""
    (tmp_path / "fake_backend.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    workers = []

    def start(**options):
        workers.append(Worker(sys.executable, "fake_backend:load", {"scale": 2.5} | options, threads=1, timeout=30))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def test_worker_answers_whatever_a_library_prints(fake):
    worker = fake()
    assert worker.loaded.versions["numpy"] == np.__version__
    assert worker.loaded.versions["no-such-package"] is None
    assert 0 < worker.loaded.load_s < 30
    reply = worker.score(["one", "three"], 8)
    assert reply.answers == [[3.0, 8.0, 2.5], [5.0, 8.0, 2.5]]
    assert 0 <= reply.seconds < 1
    assert worker.score([[1, 2]], 1).answers == [[2.0, 1.0, 2.5]]


def test_worker_measures_the_peak_of_each_request_alone(fake):
    worker = fake()
    if worker.loaded.rss is None or not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from /proc")
    large, small = worker.score(["allocate"], 1).peak_rss, worker.score(["small"], 1).peak_rss
    assert large > worker.loaded.rss + 90_000_000
    assert small < worker.loaded.rss + 20_000_000


def test_worker_tells_why_it_could_not_load(fake):
    with pytest.raises(WorkerError, match="ValueError: this model is broken"):
        fake(broken=True)


def test_worker_needs_an_interpreter_that_is_there(tmp_path):
    with pytest.raises(WorkerError, match="No such file or directory; name another"):
        Worker(str(tmp_path / "python"), "fake_backend:load", {}, threads=1)


def test_worker_survives_a_failed_request_and_tells_of_a_crash(fake):
    worker = fake()
    with pytest.raises(WorkerError, match="KeyError: 'a bad text'"):
        worker.score(["raise"], 1)
    assert worker.score(["ok"], 1).answers
    with pytest.raises(WorkerError, match="code 3: a last word"):
        worker.score(["die"], 1)
    with pytest.raises(WorkerError, match="code 3"):
        worker.score(["ok"], 1)


def test_worker_that_takes_too_long_is_ended(fake):
    worker = fake()
    with pytest.raises(WorkerError, match="longer than 1 s"):
        worker.score(["sleep"], 1, timeout=1)


def test_systems_that_differ_in_batch_size_share_a_worker_and_a_failure_is_noted(fake):
    del fake  # only its backend is needed
    with closing(Pool(threads=1, timeout=30)) as pool:
        for name, options in (
            ("one", {"scale": 1.5}),
            ("two", {"scale": 1.5}),
            ("other", {"scale": 2.5}),
            ("broken", {"broken": 1}),
        ):
            pool.start(name, "fake_backend:load", options)
        assert pool.loaded("one") is pool.loaded("two")
        assert pool.loaded("one") is not pool.loaded("other")
        assert pool.loaded("broken") is None
        assert "this model is broken" in pool.failures["broken"]
        assert pool.predicted("two", 3) is None
        assert pool.ask("two", [[1, 2, 3]], 2, tokens=3).answers == [[3.0, 2.0, 1.5]]
        assert pool.predicted("two", 3) > 0
        with pytest.raises(WorkerError, match="code 3"):
            pool.ask("other", ["die"], 1)
        with pytest.raises(WorkerError, match="this model is broken"):
            pool.ask("broken", [[1]], 1)


def test_a_backend_runs_in_the_interpreter_that_was_named_for_it(tmp_path):
    with closing(Pool(1, 30, pythons={"fake_backend:load": str(tmp_path / "python")})) as pool:
        pool.start("one", "fake_backend:load", {})
        assert "No such file" in pool.failures["one"]


def test_no_worker_is_started_without_the_memory_for_it():
    if available() is None:
        pytest.skip("memory is read from /proc")
    with closing(Pool(threads=1, timeout=30, reserve=1e15)) as pool:
        pool.start("large", "f", {})
        assert pool.failures["large"].startswith("not started: ")
        with pytest.raises(WorkerError, match=r"1000000\.0 GB are wanted"):
            pool.ask("large", [[1]], 1)


class Peers:
    """Stands for workers: seconds by system, or a sentence for one that fails, and a record of who was asked."""

    def __init__(self, **seconds):
        self.seconds, self.asked = seconds, []

    def __call__(self, name):
        self.asked.append(name)
        value = self.seconds[name]
        if isinstance(value, str):
            raise WorkerError(value)
        if isinstance(value, list):
            value = value.pop(0)
        return Reply(value, [[value, 0.0]], peak_rss=100)


def test_every_round_asks_every_system_once_in_an_order_of_its_own():
    peers = Peers(a=1.0, b=2.0, c=3.0)
    timings = measure(peers, ["a", "b", "c"], {}, count=3, max_seconds=1000)
    asked = ["".join(peers.asked[i : i + 3]) for i in range(0, 12, 3)]
    assert asked[0] == "abc"
    assert all(sorted(turn) == ["a", "b", "c"] for turn in asked)
    assert len(set(asked)) > 1
    assert timings["b"].runs == {0: 2.0, 1: 2.0, 2: 2.0, 3: 2.0}
    assert timings["b"].measured.keys() == {1, 2, 3}  # the first one only warms up


def test_a_system_leaves_before_it_takes_too_long_and_one_measurement_is_kept():
    peers = Peers(quick=1.0, slow=4.0, endless=20.0)
    timings = measure(peers, ["quick", "slow", "endless"], {"endless": 9.0}, count=5, max_seconds=10)
    assert len(timings["quick"].measured) == 5
    assert timings["slow"].runs == {0: 4.0, 1: 4.0}  # a third time would make 12 seconds
    assert timings["endless"].measured == {0: 20.0}  # its prediction was too low: its one answer counts, cold
    assert all(timing.status == "ok" for timing in timings.values())


def test_a_system_predicted_to_take_too_long_is_not_asked():
    peers = Peers(a=1.0, b=1.0)
    timings = measure(peers, ["a", "b"], {"a": None, "b": 10.4}, count=1, max_seconds=10)
    assert peers.asked == ["a", "a"]
    assert timings["b"].status == "skipped: predicted 10 s"
    assert timings["b"].measured == {}


def test_a_system_that_fails_costs_only_its_own_figures():
    peers = Peers(a=1.0, b="it died.", c=[1.0, float("nan"), 1.0])
    timings = measure(peers, ["a", "b", "c"], {}, count=2, max_seconds=10)
    assert peers.asked.count("b") == 1
    assert timings["b"].status == "failed: it died."
    assert timings["c"].status == "failed: it answered with NaN or infinity."
    assert not timings["b"].runs
    assert not timings["c"].runs
    assert len(timings["a"].measured) == 2


def test_predictions_are_in_proportion_to_the_largest_measured_before():
    def predict(history, tokens):
        return Pool(1, 30, _seconds={"a": history}).predicted("a", tokens)

    assert predict({}, 100) is None
    assert predict({10: 1.0, 100: 4.0, 1000: 50.0}, 200) == 8.0
    assert predict({10: 1.0, 100: 4.0}, 100) == 4.0
    assert predict({10: 1.0, 100: 4.0}, 5) == 0.5


def test_ratio_is_the_median_over_rounds_that_both_took_part_in():
    base = Timing({0: 9.0, 1: 1.0, 2: 2.0, 3: 1.0, 4: 1.0})
    assert ratio(Timing({0: 9.0, 1: 3.0, 2: 8.0, 3: 5.0}), base) == 4.0  # of 3, 4 and 5
    assert ratio(Timing({0: 18.0}), base) == 2.0
    assert ratio(Timing(), base) is None


def test_what_variables_do_not_restrict_is_noted(monkeypatch):
    systems = {system.name: system for system in SYSTEMS}
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    assert compare_peers.note(systems["onnx-int8-1"]) == ""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert compare_peers.note(systems["onnx-int8-1"]) == "takes all the instructions of the processor"
    assert "share a batch; takes all" in compare_peers.note(systems["onnx-fp32-8"]).replace(
        ": its padded answers are wrong", ""
    )
    assert "takes all" not in compare_peers.note(systems["transformers-fp32-1"])


def test_agreement_does_not_see_what_all_logits_share():
    truth = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    assert agreement([[11.0, 12.0, 13.0], [5.0, 5.0, 5.0]], truth) == 0.0
    assert agreement([[1.0, 2.0, 3.0], [0.3, 0.0, 0.0]], truth) == pytest.approx(0.2)
    assert agreement(None, truth) is None


def test_batches_are_of_neighbours_in_length_and_answers_in_order():
    sequences = [[1] * 5, [2] * 2, [3] * 5, [4], [5] * 5]
    calls = []

    def score(texts):
        calls.append([len(text) for text in texts])
        return [[float(text[0])] for text in texts]

    assert by_length(score, sequences, 2) == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert calls == [[1, 2], [5, 5], [5]]
    calls.clear()
    assert by_length(score, sequences, 2, padded=False) == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert calls == [[1], [2], [5, 5], [5]]


def test_systems_have_names_of_their_own_and_find_their_models(tmp_path):
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    assert BASE in {system.name for system in SYSTEMS}
    (tmp_path / "q.gguf").touch()
    gguf = System("a", "llama", "q.gguf")
    assert gguf.path(tmp_path, None, tmp_path) == str(tmp_path / "q.gguf")
    assert gguf.path(tmp_path, None, None) is None
    assert gguf.path(tmp_path, None, tmp_path / "elsewhere") is None
    assert System("b", "slant", CHECKPOINT).path(tmp_path, None, None) == str(tmp_path)
    assert System("c", "slant", ARTIFACT).path(tmp_path, None, None) is None


def test_a_system_is_asked_for_what_says_something_about_it():
    single, several = Workload("1x2", [[1, 2]]), Workload("2x1", [[1], [2]], ["a", "b"])
    alone, eight, own = (System("", "", batch=batch) for batch in (1, 8, 0))
    assert [compare_peers.asked(system, single) for system in (alone, eight, own)] == [True, False, True]
    assert all(compare_peers.asked(system, several) for system in (alone, eight, own))
    reader = System("", "", batch=8, reads_text=True)
    assert compare_peers.asked(reader, several)
    assert not compare_peers.asked(reader, single)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("classifier"))


def test_workloads_begin_with_the_prefix_and_ascend(checkpoint):
    prompt = Prompt.load(checkpoint)
    prefix = list(prompt.prefix_ids)
    assert prefix
    made = workloads(prompt, lambda name: "x" in name)
    assert [load.tokens for load in made] == sorted(load.tokens for load in made)
    for load in [*made, warm_up(prompt)]:
        assert all(ids[: len(prefix)] == prefix for ids in load.sequences)
    by_name = {load.name: load for load in made}
    assert [len(ids) for ids in by_name["8x128"].sequences] == [len(prefix) + 128] * 8
    assert by_name["8x128"].sequences[0] != by_name["8x128"].sequences[1]


def test_posts_are_short_and_speeches_of_all_lengths(checkpoint):
    lines = [" ".join(f"This is sentence {i} of {n}." for i in range(n)) for n in range(1, 60)]
    said = [Speech(f"Speaker {i}", "democrat", text, "convention") for i, text in enumerate(lines)]
    short = posts(said)
    assert len(set(short)) == len(short) == 32
    assert all(1 <= text.count(".") <= 3 for text in short)
    long = whole(said, Prompt.load(checkpoint))
    assert len(long) == 24
    assert long[0] == lines[0]
    assert long[-1] == lines[-1]  # 59 sentences of some 26 characters stay below the limit


def test_slant_and_transformers_agree_through_their_workers(checkpoint, tmp_path):
    names = "slant-fp32,slant-bf16,transformers-fp32-1,transformers-fp32-8,llama-bf16-1"
    compare_peers.main(
        [str(checkpoint), "--systems", names, "--workloads", "1x256,8x128", "--threads", "1"]
        + ["--rounds", "2", "--results", str(tmp_path), "--limit", "1e6"]
    )
    rows = [json.loads(line) for line in (tmp_path / "peers.jsonl").read_text().splitlines()]
    assert {row["run"] for row in rows} == {rows[0]["run"]}
    found = {(row["workload"], row["system"]): row for row in rows}
    assert len(found) == len(rows) == 9  # the system of batch 8 is not asked for one text
    for workload in ("1x256", "8x128"):
        assert found[workload, "slant-fp32"]["agreement"] < 1e-4
        assert 1e-4 < found[workload, "slant-bf16"]["agreement"] < 0.2
        assert found[workload, "slant-bf16"]["ratio"] == 1
        assert found[workload, "llama-bf16-1"]["status"].startswith("failed: its model, bf16.gguf, was not given")
        assert found[workload, "llama-bf16-1"]["ratio"] is None
    row = found["8x128", "transformers-fp32-8"]
    assert row["agreement"] < 1e-4
    assert (row["texts"], row["tokens"], row["rounds"], row["batch"]) == (8, 8 * (128 + row["prefix_tokens"]), 2, 8)
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"]["p50"], rel=1e-3)
    assert row["load_peak_rss"] >= row["rss_loaded"] > 0
    assert row["load_s"] == found["1x256", "transformers-fp32-1"]["load_s"]  # one worker for both batch sizes


def single(system, length, **more):
    shared = {"texts": 1, "tokens": 30 + length, "tokens_per_second": 400.4, "limit_tokens_per_second": 900}
    return shared | {"system": system, "workload": f"1x{length}", "reads_text": False} | more


def test_the_picture_shows_every_system_and_the_limit(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [single(name, length) for name in ("slant-bf16", "peer") for length in (16, 256)]
    rows[-1]["tokens_per_second"] = None
    pictures.peers([*rows, single("reader", 16, reads_text=True)], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for name in ("slant-bf16", "peer", "limit of the matrix products"):
        assert f">{name}</text>" in drawn
    assert ">reader<" not in drawn  # its tokens are not those of the others
