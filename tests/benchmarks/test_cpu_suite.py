"""The CPU suite at the demo's size: its rows, what they count, the padding, and the checkpoint it writes."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer

import child
import random_model
import texts
from cpu import limits, padding, test_engine, test_ops, workload
from cpu.limits import Limits
from gpu.kernel_cases import MODEL, PREFIX
from harness.rows import environment
from slant import demo
from slant.errors import SlantError
from slant.model.registry import parse_config
from slant.prompt.prompt import Prompt

SUITE = Path(__file__).parents[2] / "benchmarks" / "cpu"
LIMITS = Limits(1e12, 1e10, "a product", "a copy")


@pytest.fixture(scope="module")
def runner():
    return workload.load(demo.FOLDER)


def suite(*options):
    command = ["-m", "pytest", SUITE, "--model", demo.FOLDER, "-p", "no:cacheprovider"]
    return child.python(*command, *options, without=("PYTEST_",)).stdout  # under xdist nothing would be timed


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "found.jsonl"
    suite(
        "--benchmark-enable",
        "--benchmark-max-time=0",
        "--benchmark-min-rounds=3",
        "--rows",
        str(path),
        "-k",
        "not new_process or import",
    )
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_for_every_benchmark(rows):
    counts = Counter(row["group"] for row in rows)
    ops = len(test_ops.OPS) - 3  # the demo's only attention is the last block's, which answers for one position
    shapes = len(test_ops.SHAPES)
    of_ops = shapes * (ops + len(workload.MATRICES)) + 4
    assert counts == {
        "limit": 1,
        "ops": of_ops,
        "model": len(test_engine.SHAPES),
        "batching": 4,
        "tokenization": 2,
        "cold_start": 1,
    }
    keys = [(row["group"], row["workload"], str(row.get("shape"))) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["workload"] for row in rows if row["group"] == "cold_start"} == {"import slant"}


def test_rows_say_what_was_measured_and_with_what(rows):
    about = environment() | {"model": "demo"}
    assert len({row["time"] for row in rows}) == 1
    for row in rows:
        assert row.keys() > about.keys()
        if row["group"] == "limit":
            continue
        assert 0 < row["seconds"]["p20"] <= row["seconds"]["p50"] <= row["seconds"]["p80"]
        assert row["rounds"] >= 3
        assert row["group"] not in ("ops", "model") or {"dtype", "gb_per_s", "limit_s", "of_limit"} <= row.keys()


def test_rates_are_those_of_the_median(rows, runner):
    limit = next(row for row in rows if row["group"] == "limit")
    token, square = runner.model.config.flops()
    for row in (row for row in rows if row["group"] == "model"):
        (count, length), seconds = row["shape"], row["seconds"]["p50"]
        assert row["tokens"] == count * length
        assert row["tokens_per_second"] == pytest.approx(count * length / seconds, rel=1e-3)
        assert row["flops"] == pytest.approx(count * (token * length + square * length**2))
        assert row["gflop_per_s"] == pytest.approx(row["flops"] / seconds / 1e9, rel=1e-3)
        batches = -(-count * length // runner.planner.token_budget)
        assert row["bytes"] == pytest.approx(batches * token / 2 * runner.model.dtype.itemsize)
        least = max(row["flops"] / limit["flops_per_s"], row["bytes"] / limit["bytes_per_s"])
        assert row["limit_s"] == pytest.approx(least, rel=1e-3)
        assert row["of_limit"] == pytest.approx(row["limit_s"] / seconds, rel=0.01, abs=1e-4)


def test_calls_are_those_of_a_forward(rows):
    """Three blocks of the demo work on all positions, its fourth for one."""
    found = {row["workload"]: row["calls"] for row in rows if row["group"] == "ops" and row.get("shape") == [8, 128]}
    assert found["delta_net"] == found["gated_rms_norm"] == found["swiglu"] == 3
    assert found["add_rms_norm"] == 2 * 3 + 1
    assert found["embedding"] == found["digit_head"] == found["last_attention"] == 1
    assert found["linear Block.gate_up"] == 4


def test_bytes_of_ops(rows, runner):
    found = {row["workload"]: row for row in rows if row["group"] == "ops" and row.get("shape") == [8, 128]}
    c, tokens, size = runner.model.config, 8 * 128, runner.model.dtype.itemsize
    assert found["swiglu"]["bytes"] == tokens * 3 * c.intermediate_size * size
    assert found["embedding"]["bytes"] == tokens * (8 + 2 * c.hidden_size * size) + 8 * 8
    gate_up = found["linear Block.gate_up"]
    assert gate_up["matrix"] == [2 * c.intermediate_size, c.hidden_size]
    assert gate_up["flops"] == 2 * tokens * 2 * c.intermediate_size * c.hidden_size


def test_flops_of_attention_count_the_pairs_that_see_each_other():
    pairs = sum(PREFIX + position + 1 for position in range(128))
    flops = 8 * pairs * 4 * MODEL.num_attention_heads * MODEL.head_dim
    assert test_ops.at_shape(MODEL, 8, 128)["causal_attention"].flops == flops


def test_arguments_are_in_the_models_dtype():
    bf16, fp32 = torch.ones(2, dtype=torch.bfloat16), torch.ones(2)
    found = test_ops.in_dtype((bf16, (bf16, 3), fp32), torch.float32)
    assert (found[0].dtype, found[1][0].dtype, found[1][1], found[2] is fp32) == (torch.float32, torch.float32, 3, True)


def test_without_the_flag_everything_runs_once_and_no_row_is_written(tmp_path):
    out = suite("--rows", str(tmp_path / "none.jsonl"), "-k", "digit_head or encode")
    assert "5 passed" in out
    assert not list(tmp_path.iterdir())


def test_limits_bound_by_the_slower_of_the_two(runner):
    found = limits.measure(runner, seconds=0)
    assert found.flops_per_s > 1e8
    assert found.bytes_per_s > 1e8
    assert found.flops_by in ("torch", "onednn")
    assert found.bytes_by in ("sum", "copy")
    assert (LIMITS.seconds(1e12, 1), LIMITS.seconds(1, 1e10), LIMITS.seconds(2e12, 1e10)) == (1, 1, 2)


def test_every_layer_has_its_matrices(runner):
    found = workload.matrices(runner.model)
    kinds = Counter(runner.model.config.layer_types)
    for name in ("DeltaNet.in_qkvz", "DeltaNet.in_ab", "DeltaNet.out"):
        assert len(found[name]) == kinds["linear_attention"]
    assert len(found["Attention.out"]) == kinds["full_attention"]
    assert len(found["Block.gate_up"]) == len(found["Block.down"]) == len(runner.model.blocks)
    assert found["Attention.in_kvq"]


def test_flops_are_those_of_every_text():
    config = parse_config(random_model.SHAPES["0.8b"])
    token, square = config.flops()
    assert square > 0
    assert workload.flops(config, [16, 16, 2048]) == token * 2080 + square * (2 * 16**2 + 2048**2)


def test_texts_start_with_the_prefix_and_are_computed_without_it(runner):
    found = workload.texts(runner, [48, 48])
    assert [len(ids) - len(runner.prefix_ids) for ids in found] == [48, 48]
    assert all((ids[: len(runner.prefix_ids)] == runner.prefix_ids).all() for ids in found)
    assert workload.run(runner, found) == 2 * 48


# ---- padding


def test_padding_of_drawn_lengths_meets_its_aims(runner):
    rows = [padding.row(found, runner) for found in padding.workloads(Prompt.load(demo.FOLDER))]
    about = [(row["workload"], row["texts"], row["real"]) for row in rows]
    assert about == [("posts", 1024, False), ("speeches", 254, False)]
    assert all(row["aim"] == padding.AIMS[row["workload"]] <= row["fill"] < 1 for row in rows)


def test_fill_is_real_over_computed(runner):
    tokens = [100] * 7
    (batch,) = runner.batches(workload.texts(runner, tokens))
    row = padding.row(padding.Lengths("posts", tokens, real=False), runner)
    assert row["fill"] == round(100 / batch.ids.shape[1], 4) < 1


def test_speeches_are_measured_where_they_and_the_vocabulary_are_at_hand(monkeypatch):
    prompt, spoken = Prompt.load(demo.FOLDER), ["We the people. ", "We the people. " * 9]
    monkeypatch.setattr(padding, "QWEN", 1)
    monkeypatch.setattr(padding, "speeches", lambda: [SimpleNamespace(text=text) for text in spoken])
    _, found = padding.workloads(prompt)
    expected = [len(row.ids) - len(prompt.prefix_ids) for row in prompt.encode(spoken)]
    assert (list(found.tokens), found.real) == (expected, True)

    def none():
        raise texts.TextsError("no network")

    monkeypatch.setattr(padding, "speeches", none)
    _, found = padding.workloads(prompt)
    assert (len(found.tokens), found.real) == (254, False)


# ---- the checkpoint


def test_a_checkpoint_is_taken_as_it_is(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert workload.checkpoint(tmp_path) == tmp_path
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_without_room_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(workload.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3e9))
    with pytest.raises(SlantError, match=r"1\.5 GB does not fit .* 3\.0 GB free"):
        workload.checkpoint(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("known", [True, False])
def test_the_checkpoint_is_written_once_into_the_cache(known, monkeypatch, tmp_path):
    small = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_value_heads": 16}
    monkeypatch.setitem(random_model.SHAPES, workload.SHAPE, random_model.SHAPES["4b"] | small | heads)
    bundled = Tokenizer.from_file(str(demo.FOLDER / "tokenizer.json"))
    monkeypatch.setattr(random_model, "qwen_tokenizer", lambda: bundled if known else None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    folder = workload.checkpoint(None, said.append)
    assert folder == tmp_path / "slant" / "random-0.8b"
    assert "GB free" in said[0]
    assert workload.load(folder).model.config.hidden_size == 64
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert workload.checkpoint(None, said.append) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert len(said) == 1
