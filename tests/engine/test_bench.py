"""slant bench: texts of exact lengths, the arithmetic of its rates and limits, its report, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from precision import DTYPE, WEIGHTS
from slant.bench import machine, roofline
from slant.bench import measure as measuring
from slant.bench.card import terminal
from slant.bench.measure import First, figures, first_call, measure
from slant.bench.roofline import COLD, Executed, Products
from slant.bench.texts import Workload, Writer, own, read, workloads
from slant.bench.turns import FEWEST, MOST, Watch, calls, order, per_second, spread, take_turns
from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.errors import SlantError
from slant.model.registry import activation_bytes, read_config
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.tensor_files import EMBEDDING
from slant_kernels.onednn import can_reorder

CPU = torch.device("cpu")
TICK = 2**-10  # seconds
CONFIG = read_config(FOLDER)


@pytest.fixture(scope="module")
def prompt():
    return Prompt.load(FOLDER, max_tokens=600)


@pytest.fixture(scope="module")
def firsts():
    """The first calls of ``fake``, by workload."""
    return {}


@pytest.fixture(scope="module")
def fake(firsts):
    """A report by a clock that goes on by a tick whenever it is asked."""
    ticks = count()

    def kept(engine, workload, watch):
        return firsts.setdefault(workload.name, first_call(engine, workload, watch))

    options = {"lengths": [128, 200], "counts": [1, 3], "seconds": 10 * TICK, "now": lambda: next(ticks) * TICK}
    loading = LoadOptions(device="cpu", weights=WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "first_call", kept)
        return measure(FOLDER, loading, texts=["one", None, "two two"], imports=0.5, **options)


@pytest.fixture
def slant(capfd):
    def run(*arguments):
        code = cli.run(["bench", *map(str, arguments), "--device", "cpu"])
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return run


# Texts


@pytest.mark.parametrize("name", ["default", "ends in the article", "byte by byte"])
def test_texts_have_exactly_the_tokens(name, prompt):
    """Also where the text's end merges with what follows, and in a vocabulary that knows no words."""
    if name == "ends in the article":
        prompt = Prompt.load(FOLDER, template="Rate this: {article}", labels={"0": "a", "1": "b"}, max_tokens=600)
    if name == "byte by byte":
        plain = json.loads(prompt.tokenizer.to_str())
        plain["model"]["merges"] = []
        prompt = Prompt(type(prompt.tokenizer).from_str(json.dumps(plain)), template="{article}\n", max_tokens=600)
    writer = Writer(prompt)
    for tokens in (*range(writer.least, writer.least + 40), 255, 599, 600):
        for number in (0, 1, 7):
            (row,) = prompt.encode([writer.write(tokens, number)])
            assert (len(row.ids), row.tokens_dropped, row.error) == (tokens, 0, None)
    assert len({writer.write(600, number) for number in range(64)}) == 64


def test_lengths_no_prompt_can_have(prompt):
    writer = Writer(prompt)
    assert writer.least == 84
    for tokens in (83, 601):
        with pytest.raises(SlantError, match=f"a prompt of {tokens} tokens: the prompt alone takes 84, .* is 600;"):
            writer.write(tokens)
    assert writer.lengths() == (128, 512, 600)
    assert Writer(Prompt.load(FOLDER, max_tokens=100)).lengths() == (100,)
    long = Prompt.load(FOLDER, template="word " * 150 + "{article}")
    assert Writer(long).lengths()[0] == len(long.encode(["a"])[0].ids) > 128


def test_workloads(prompt):
    found = {one.name: one for one in workloads(Writer(prompt), (128, 300), (1, 3))}
    assert {name: (one.kind, len(one.texts)) for name, one in found.items()} == {
        "1 x 128": ("one text", 1),
        "1 x 300": ("one text", 1),
        "3 x 128": ("equal length", 3),
        "28 posts": ("mixture", 28),
    }
    assert {len(row.ids) for row in prompt.encode(found["3 x 128"].texts)} == {128}
    assert {passage["text"] for passage in passages()} >= set(found["28 posts"].texts)


def test_own_texts(prompt, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"body": "one"}\n{bad\n{"body": null}\n{"body": "two"}\n{"body": "three"}\n')
    options = {"text_column": "body", "input_format": None, "encoding": "utf-8"}
    assert read(path, rows=4, **options) == ["one", None, "two"]
    assert own(prompt, ["one", None, "", "two"]).texts == ("one", "two")
    with pytest.raises(SlantError, match="no text that can be scored"):
        own(prompt, [None])


# Turns


def test_turns_are_spread_over_the_whole_time():
    turns = order({"many": 8, "few": 2, "once": 1})
    assert turns == ["many", "many", "few", "many", "many", "once", "many", "many", "few", "many", "many"]
    assert len(order({"a": 3, "b": 3})) == 6
    assert all(one != next_one for one, next_one in pairwise(order({"a": 3, "b": 3})))


def test_calls_fill_the_seconds():
    assert [calls(first, 3.0) for first in (100.0, 1.0, 0.5, 1e-5, 0.0)] == [FEWEST, 3, 6, MOST, MOST]


def test_a_watch_times_the_call_alone():
    ticks = iter((1.0, 3.5, 10.0, 10.25))
    ran, seen = [], []
    samples = take_turns(
        {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")},
        {"a": 1, "b": 1},
        {"a": 9.0, "b": 9.0},
        Watch(CPU, lambda: next(ticks)),
        lambda *done: seen.append(done),
    )
    assert samples == {"a": [2.5], "b": [0.25]}
    assert (ran, seen) == (["a", "b"], [(1, 2), (2, 2)])


def test_seconds_bound_what_grew_slower():
    """Each call takes two seconds of the clock; two calls there are in any case."""
    now, ran = [0.0], []

    def run():
        now[0] += 2.0
        ran.append(1)

    for budget, times in ((0.0, FEWEST), (5.0, 3), (100.0, 6)):
        samples = take_turns({"a": run}, {"a": 6}, {"a": budget}, Watch(CPU, lambda: now[0]))
        assert samples == {"a": times * [2.0]}
    assert len(ran) == FEWEST + 3 + 6


def test_a_gpu_is_waited_for_before_and_after(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    watch = Watch(torch.device("cuda"), lambda: events.append("look") or 0.0)
    watch(lambda: events.append("run"))
    assert events == ["wait", "look", "run", "wait", "look"]


def test_spread():
    seconds = [float(second) for second in range(1, 101)]
    found = spread(seconds[::-1])
    assert (found["calls"], found["least"], found["most"]) == (100, 1, 100)
    percentiles = [found[f"p{q}"] for q in (25, 50, 75, 90, 99)]
    assert percentiles == pytest.approx(np.percentile(seconds, (25, 50, 75, 90, 99)))
    rate = per_second(found, 101.0)
    assert rate["p50"] == pytest.approx(2.0)
    assert rate["p25"] < rate["p50"] < rate["p75"]
    assert rate["p25"] == 101.0 / found["p75"]
    assert [spread(seconds[:99])[name] for name in ("p90", "p99")] == [pytest.approx(89.2), None]
    assert spread(seconds[:9])["p90"] is None
    with pytest.raises(ValueError, match="no calls"):
        spread([])


# The limit


def test_shapes_are_those_the_model_multiplies_by():
    shapes = roofline.linear_shapes(CONFIG)
    gates = (2 * CONFIG.linear_num_value_heads, CONFIG.hidden_size)
    assert set(shapes) == CONFIG.merged_shapes() | {gates}
    matrices = [shape for name, shape in CONFIG.shapes().items() if len(shape) == 2 and name != EMBEDDING]
    assert sum(map(math.prod, shapes)) == sum(map(math.prod, matrices))
    assert len(shapes) == 3 * 5 + 4


def test_matrices_are_as_cold_as_the_models():
    """All of a small model's; of a large one as many as leave any cache."""
    assert roofline.cold([(3, 5), (7, 11)], 2) == [(3, 5), (7, 11)]
    large = (1 << 12, 1 << 13)
    taken = roofline.cold([large] * 50, 2)
    assert sum(2 * math.prod(shape) for shape in taken) == COLD
    assert len(roofline.cold([large] * 50, 4)) == len(taken) // 2


def test_products_are_counted_and_run():
    """By torch's own counter of FLOPs; each way multiplies by what it prepared."""
    used = []
    marked = (lambda matrix: ("ours", matrix), lambda x, kept: used.append(kept[1]) or x @ kept[1].T)
    plain = (lambda matrix: matrix, F.linear)
    products = Products(CONFIG, torch.float32, CPU, {"torch": plain, "marked": marked})
    assert products.shapes == roofline.linear_shapes(CONFIG)
    for way in ("torch", "marked"):
        run = products.run(way, 7)
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == products.flops(7) > 0
        assert [tuple(matrix.shape) for matrix in used] == (products.shapes if way == "marked" else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ways_multiply(dtype):
    x, matrix = torch.randn(5, 64, dtype=dtype), torch.randn(32, 64, dtype=dtype)
    found = roofline.ways(dtype, CPU, eight_bit="int8")
    assert "int8" not in roofline.ways(dtype, CPU, eight_bit=None)
    assert set(roofline.ways(dtype, CPU, eight_bit=None, w4a8=True)) == {
        *roofline.ways(dtype, CPU, eight_bit=None),
        "w4a8",
    }
    assert ("onednn" in found, "int8" in found) == (can_reorder(dtype, CPU), True)
    for prepare, multiply in found.values():
        torch.testing.assert_close(multiply(x, prepare(matrix)), x @ matrix.T, rtol=0, atol=0.5)


def test_reads_move_what_they_say():
    for size, moved in ((4000, 4000), (10 * COLD, COLD)):
        runs = roofline.reads(size, CPU)
        assert {name: amount for name, (_, amount) in runs.items()} == {"sum": moved, "copy": 2 * moved}
        for run, _ in runs.values():
            run()


def test_short_runs_are_repeated():
    """A run of a millisecond, five times in a call, and of nothing not forever."""
    now, runs = [0.0], []

    def run():
        runs.append(1)
        now[0] += 1.0e-3

    several, times, seconds = roofline.repeated(run, Watch(CPU, lambda: now[0]))
    assert (times, seconds) == (5, pytest.approx(5e-3))
    runs.clear()
    several()
    assert len(runs) == 5
    assert roofline.repeated(lambda: None, Watch(CPU, lambda: 0.0))[1] <= 5000
    runs.clear()
    now[0] = 0.0

    def long():
        runs.append(1)
        now[0] += 2.0

    assert roofline.repeated(long, Watch(CPU, lambda: now[0]))[1:] == (1, 2.0)
    assert len(runs) == 1  # a long run is not run a second time to plan by


def test_flops_behind_a_prefix_are_those_it_leaves():
    config = replace(CONFIG, layer_types=CONFIG.layer_types[::-1])  # an attention that is not the last block
    token, square = config.flops()
    assert square > 0
    assert roofline.text_flops(config, 10, 0) == 10 * token + 100 * square
    whole, prefix = roofline.text_flops(config, 130, 0), roofline.text_flops(config, 30, 0)
    assert roofline.text_flops(config, 100, 30) == pytest.approx(whole - prefix)


def test_the_best_way_is_of_the_highest_rate():
    rates = {("reads", "a"): 25.0, ("reads", "b"): 50.0, ("products", "c"): 99.0}
    assert roofline.best(rates, "reads") == ("b", 50.0)


def test_a_limit_is_the_larger_of_products_and_reads_by_batch():
    batches = (Executed(1, 16, 10, 600.0), Executed(2, 32, 30, 50.0))
    limit = roofline.limit(batches, flops=100.0, weight_bytes=20.0, read=10.0)
    assert limit == {"products_s": 6.5, "reads_s": 4.0, "seconds": 8.0, "bound": "products"}
    assert roofline.limit(batches, flops=1000.0, weight_bytes=20.0, read=10.0)["bound"] == "reads"


def measured(seconds, limit):
    first = First(60, (Executed(1, 16, 10, 600.0), Executed(2, 32, 26, 200.0)), 1.0, 9.0)
    rate = {"seconds": limit, "bound": "products", "flops_per_s": 100.0}
    workload = Workload("w", "mixture", ("a", "b", "c"))
    return figures(workload, first, spread([seconds] * 3), spread([0.25] * 3), rate)


def test_rates_of_a_workload():
    plain = measured(2.0, limit=1.0)
    assert plain["computed_tokens"] == 48
    assert plain["fill"] == 36 / 48
    assert plain["encode_share"] == 0.125
    assert plain["fraction_of_limit"] == 0.5
    rates = [plain[name]["p50"] for name in ("texts_per_s", "tokens_per_s", "flops_per_s")]
    assert rates == [1.5, 30.0, 400.0]
    assert (plain["first_s"], plain["first_encode_s"]) == (9.0, 1.0)


# The whole


def test_a_report_by_a_clock_that_only_counts(fake):
    """Every call takes one tick: what it says follows from the texts and the batches alone."""
    by_name = {one["name"]: one for one in fake["workloads"]}
    assert list(by_name) == ["1 x 128", "1 x 200", "3 x 128", "28 posts", "2 inputs"]
    # four blocks, then the rest
    assert fake["load_s"] == {"imports": 0.5, "weights": 4 * TICK, "rest": TICK, "warmup": TICK}
    for one in by_name.values():
        assert one["score_s"] == one["encode_s"] == spread([TICK] * 5)  # ten ticks by the first call's two
        assert (one["first_s"], one["first_encode_s"]) == (2 * TICK, TICK)
        pass_flops = Products(CONFIG, DTYPE, CPU, {}).flops(one["limit"]["at_tokens"])
        assert one["limit"]["flops_per_s"] == 6 * pass_flops / TICK  # six passes take the least time of a sample
        assert one["fraction_of_limit"] == one["limit"]["seconds"] / TICK
    assert (by_name["1 x 200"]["tokens"], by_name["3 x 128"]["tokens"]) == (200, 3 * 128)
    assert fake["read"] == {"way": "copy", "bytes_per_s": 6 * 2 * fake["weight_bytes"] / TICK}
    assert {taken["calls"] for taken in fake["limit_samples_s"].values()} == {FEWEST}


def test_batches_are_those_of_the_engine(fake, firsts, prompt):
    posts = next(one for one in fake["workloads"] if one["kind"] == "mixture")
    first = firsts[posts["name"]]
    encoded = prompt.encode([passage["text"] for passage in passages()[::2]])
    prefix = len(prompt.prefix_ids)
    runner = Engine.load(FOLDER, device="cpu", weights=WEIGHTS).runner
    batches = list(runner.batches([row.ids for row in encoded]))
    assert posts["tokens"] == sum(len(row.ids) for row in encoded)
    assert sorted(batch.computed for batch in first.batches) == sorted(batch.ids.numel() for batch in batches)
    assert posts["computed_tokens"] == sum(batch.ids.numel() for batch in batches)
    assert sum(batch.tokens for batch in first.batches) == posts["tokens"] - 28 * prefix
    assert 0.5 < posts["fill"] < 1
    expected = sum(roofline.text_flops(CONFIG, len(row.ids) - prefix, prefix) for row in encoded)
    assert posts["flops"] == pytest.approx(expected)
    assert posts["limit"]["at_tokens"] == round(posts["computed_tokens"] / len(batches))


def test_memory_is_measured_beside_what_was_predicted(fake, firsts):
    memory, tier = fake["memory"], fake["tier"]
    shapes = {(b.rows, b.computed // b.rows) for first in firsts.values() for b in first.batches}
    activations = max(activation_bytes(CONFIG, DTYPE.itemsize, *shape) for shape in shapes)
    assert memory["predicted"] == tier["weights"] + tier["prefix"] + activations
    assert memory["predicted"] < memory["predicted_up_to_max_tokens"]
    assert 0 < fake["weight_bytes"] < tier["weights"]
    if memory["before"] is not None:
        assert 0 < memory["before"] <= memory["after"]
        assert memory["loading"] <= memory["working"] <= machine.peak(CPU) - memory["before"]
        assert machine.peak(CPU) > machine.resident() // 2 > 10**7


def shown(report):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(terminal(report))
    return capture.get()


def test_an_exceeded_limit_is_called_invalid(fake):
    for limit, exceeded in ((1.0, False), (3.0, True)):
        found = shown(fake | {"workloads": [measured(2.0, limit)]})
        assert ("w: the measured roofline is invalid, it was exceeded (1.50 of it)." in found) is exceeded
        assert ("150%" in found) is exceeded


def test_offloaded_weights_have_another_limit(fake):
    for offload in (False, True):
        found = shown(fake | {"tier": fake["tier"] | {"offload": offload}})
        assert ("weights are offloaded" in found) is offload


def test_matrices_that_do_not_fit_are_an_error(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(roofline.Products, "__init__", full)
    with pytest.raises(SlantError, match=r"do not fit cpu beside the model; give a smaller --memory\.$"):
        measure(FOLDER, LoadOptions(device="cpu"), lengths=[100], counts=[1])


def test_a_text_that_fails_is_an_error():
    engine = Engine.load(FOLDER, weights="fp32", device="cpu", max_tokens=200)
    with pytest.raises(SlantError, match="posts: The text is empty"):
        first_call(engine, Workload("posts", "mixture", ("fine", "")), Watch(CPU))


# The command


@pytest.mark.parametrize("weights", [WEIGHTS, pytest.param("hqq8", marks=pytest.mark.slow)])
def test_json_ends_the_output_and_goes_to_a_file(slant, tmp_path, monkeypatch, weights):
    scored, score = [], Engine.score
    monkeypatch.setattr(Engine, "score", lambda engine, texts: scored.append(len(texts)) or score(engine, texts))
    path = tmp_path / "in.csv"
    path.write_text("body\n" + "a post\n" * 5)
    options = ["--lengths", "150, 100", "--texts", "2", "--seconds", 0, "--max-tokens", 200, "--weights", weights]
    files = ["--input", path, "--text-column", "body", "--rows", 3, "--output", tmp_path / "out.json"]
    code, out, err = slant("demo", *options, *files, "--json", "--threads", 2)
    torch.set_num_threads(1)
    assert (code, err) == (0, "")
    plain = json.loads(out.splitlines()[-1])
    assert plain == json.loads((tmp_path / "out.json").read_text())
    assert set(plain) == {
        "format", "time", "machine", "settings", "tier", "load_s", "memory", "weight_bytes", "read",
        "limit_samples_s", "workloads",
    }  # fmt: skip
    assert {"slant", "torch", "processor", "threads", "device"} <= set(plain["machine"])
    assert plain["machine"]["threads"] == 2
    assert (plain["settings"]["lengths"], plain["settings"]["texts"]) == ([100, 150], [2])
    assert plain["settings"]["config"]["hidden_size"] == CONFIG.hidden_size
    assert [one["name"] for one in plain["workloads"]] == ["1 x 100", "1 x 150", "2 x 100", "28 posts", "3 inputs"]
    assert sorted(scored) == sorted(FEWEST * [1, 1, 2, 28, 3])
    for one in plain["workloads"]:
        assert one["encode_s"]["least"] > 1e-5  # some microseconds a text; of nothing it were less than one
        assert one["score_s"]["calls"] == one["encode_s"]["calls"] == FEWEST
        assert one["score_s"]["p90"] is None
        assert one["first_s"] > one["first_encode_s"] > 0
        assert one["tokens_per_s"]["p50"] == pytest.approx(one["tokens"] / one["score_s"]["p50"])
        assert one["limit"]["seconds"] >= max(one["limit"]["products_s"], one["limit"]["reads_s"])
    places = {name: plain["tier"][name] for name in ("name", "quantized", "host_embedding", "offload")}
    assert places == {"name": "resident", "quantized": False, "host_embedding": False, "offload": False}
    assert all(title in out for title in ("Loading", "Memory", "Latency", "Throughput", "Roofline"))
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_without_json_there_is_none(slant):
    code, out, _ = slant("demo", "--lengths", 100, "--texts", 1, "--seconds", 0, "--weights", "fp32")
    assert code == 0
    assert "{" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lengths", "128,9000"], "--lengths 9000 is over --max-tokens 8192; give --max-tokens 9000 too."),
        (
            ["--lengths", "90,99", "--max-tokens", "95"],
            "--lengths 99 is over --max-tokens 95; give --max-tokens 99 too.",
        ),
        (["--lengths", "50"], "no text has a prompt of 50 tokens: the prompt alone takes 84"),
        (["--lengths", "1.5"], "--lengths takes whole numbers above 0 with commas between, like 128,512; not '1.5'."),
        (["--lengths", ""], "--lengths takes whole numbers"),
        (["--texts", "8,0"], "--texts takes whole numbers"),
        (["--texts", "²"], "--texts takes whole numbers"),
        (["--input", "IN", "--text-column", "body"], "body"),
        (["--input", "none.csv"], "none.csv cannot be read"),
        (["--output", "."], ". cannot be written: it is a folder."),
        (["--output", "IN", "--input", "IN"], "is the input; name another file"),
        (["--seconds", "-1"], "--seconds"),
        (["--memory", "much"], "memory is 'much', which is no size"),
    ],
)
def test_bad_options_are_one_sentence(slant, tmp_path, arguments, sentence):
    (tmp_path / "in.csv").write_text("text\none\n")
    given = [str(tmp_path / "in.csv") if argument == "IN" else argument for argument in arguments]
    code, out, err = slant("demo", *given)
    assert (code, out) == (2, "")
    assert err.startswith("slant: ")
    assert err.count("\n") == 1
    assert sentence in err
