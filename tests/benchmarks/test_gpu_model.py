"""The whole-model part of the GPU suite without a GPU: that it runs, what its figures mean, and what it refuses."""

import argparse
import importlib
import json
import math
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

pytest.importorskip("triton")
import gpu_suite
import slant_kernels
from gpu import cold_start, model_measures, model_peer, rates
from gpu import model as gpu_model
from gpu.device import DryRun, Kernel, Limits
from gpu.kernel_cases import MODEL, TINY, TINY_SHAPE
from gpu.model_measures import Bench, full_batch, tail
from gpu.model_tiers import WAYS, load
from gpu.waterfall import LINEAR, OTHER, OWNERS, calls, floors, owner, waterfall
from harness import workloads as mixtures
from random_model import STD, RandomSource
from slant.artifact.recipe import NAMED
from slant.batching.costs import BatchCosts
from slant.model import network
from slant.model.qwen3_5 import blocks
from slant.runtime.offload import OffloadRunner
from slant_kernels.merged import MergedMatrix
from slant_kernels.quantized import dequantize

CPU = torch.device("cpu")
LIMITS = Limits(bytes_per_s=1e12, flops_per_s=1e14)
QUIET = Console(quiet=True)


class Straw(DryRun):
    """A device on which everything takes a hundredth of a second and a gigabyte."""

    def seconds(self, body):
        body()
        return 0.01

    def held(self):
        return 10**9

    def peak(self, body):
        body()
        return 3 * 10**9

    def kernels(self, body):
        return [Kernel("_swiglu_kernel", 3, 2e-6), Kernel("some_gemm", 9, 6e-6)]


@pytest.fixture
def bench():
    return Bench(Straw(), LIMITS, gpu_model.TINY_SCOPE)


@pytest.fixture
def journal():
    return gpu_model.Journal()


def dry(tmp_path, **changes):
    return argparse.Namespace(dry_run=True, out=tmp_path, compiled=None, **changes)


def test_the_dry_run_measures_everything_and_tells_no_time(capsys, tmp_path):
    console = Console(width=200)
    assert gpu_model.run(dry(tmp_path), console, math.inf, "bf16") == 0
    assert gpu_model.peers(dry(tmp_path), console, math.inf) == 0
    shown = capsys.readouterr().out
    for title in ("memory", "latency", "throughput", "waterfall", "peers"):
        assert f"{title}: " in shown
    assert "Not measured" not in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_dry_run_from_the_command_line(capfd):
    assert gpu_suite.main(["--dry-run", *(f"--stage={name}" for name in ("limits", "offload", "start"))]) == 0
    assert "cold start: " in capfd.readouterr().out


def test_every_way_is_measured_and_rows_are_json(bench, journal):
    for way in WAYS:
        gpu_model.measure(bench, journal, way, math.inf)
    assert journal.undone == journal.failed == []
    kinds = {way.name: {row["measure"] for row in journal.rows if row["weights"] == way.name} for way in WAYS}
    assert kinds == {way.name: set(gpu_model.MEASURES[way.kind]) for way in WAYS}
    for row in journal.rows:
        assert "NaN" not in json.dumps(row)
    replays = [row for row in journal.rows if row.get("by") == "graph"]
    assert [(row["texts"], row["tokens"]) for row in replays] == [(1, 10)] * 4  # the others have too many tokens
    assert all(row["equals_eager"] is True for row in replays)
    assert {row["measure"] for row in journal.rows} < gpu_model.TABLES.keys()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_is_held_as_it_says(bench, way):
    loaded, costs = load(way, bench.scope.config, CPU, bench.scope.max_tokens), BatchCosts(1.0, 1.0)
    first, other = loaded.runner(64), loaded.runner(160, costs)
    assert (first.planner.token_budget, other.planner.token_budget, other.planner.costs) == (64, 160, costs)
    assert isinstance(first, OffloadRunner) == (way.kind == "offload")
    if isinstance(other, OffloadRunner):
        assert other.group_tokens == 160
    else:
        assert first.model is other.model
        assert isinstance(first.model.blocks[0].gate_up, MergedMatrix) == (way.kind != "resident")


def test_a_way_held_before_is_not_counted(bench):
    loaded = load(WAYS[0], bench.scope.config, CPU, bench.scope.max_tokens)
    (row,) = bench.memory(loaded, before=4e8, while_loading=2e9)
    assert (row["held_bytes"], row["peak_bytes"], row["loading_peak_bytes"]) == (0.6e9, 2.6e9, 1.6e9)
    expected = WAYS[0].predicted(bench.scope.config, 160, 160)
    assert row["predicted_peak_bytes"] == expected.peak
    assert row["measured_over_predicted"] == pytest.approx(2.6e9 / expected.peak, abs=1e-4)


def test_rates_count_real_tokens(bench):
    texts = [np.zeros(40), np.zeros(60)]
    row = bench.throughput_row("x", texts, [1.0, 3.0, 2.0])
    assert (row["texts_per_s"], row["tokens_per_s"], row["seconds"]["p50"]) == (1, 50, 2)
    token, square = bench.scope.config.flops()
    flops = token * (10 + 30) + square * (10**2 + 30**2)
    assert bench._of_matmul([40, 60], 2.0) == round(flops / 2 / LIMITS.flops_per_s, 4)
    assert bench._of_matmul([40, 60], 1e-7) == pytest.approx(flops / 1e-7 / LIMITS.flops_per_s, abs=1e-4)


def test_few_values_have_no_tail():
    assert tail([1.0] * 20) == {"p50": 1, "p95": None, "p99": None}
    assert tail([1.0] * 99 + [2.0]) == {"p50": 1, "p95": 1, "p99": 1.01}


def test_a_replay_that_answers_otherwise_is_reported(bench, journal, monkeypatch, capsys):
    def wrong(compute):
        digits = compute()
        return lambda: None, digits

    monkeypatch.setattr(Straw, "capture", lambda self: wrong)
    gpu_model.measure(bench, journal, WAYS[0], math.inf)
    assert gpu_model.show(journal, Console(width=200)) == 1
    assert "does not answer as op by op does" in capsys.readouterr().out


def test_what_does_not_fit_the_time_is_named(bench, journal, capsys):
    gpu_model.measure(bench, journal, WAYS[0], -math.inf)
    gpu_model.beside(bench, journal, TINY_SHAPE, -math.inf)
    assert journal.rows == []
    assert gpu_model.show(journal, Console(width=200)) == 0
    shown = capsys.readouterr().out
    assert all(f"Not measured: {name} of bf16." in shown for name in gpu_model.MEASURES["resident"])
    assert "Not measured: posts beside transformers." in shown


def test_what_does_not_fit_the_memory_is_named(bench, journal, monkeypatch):
    def scarce(way, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(gpu_model, "load", scarce)
    gpu_model.measure(bench, journal, WAYS[0], math.inf)
    assert journal.undone == ["bf16, which does not fit: CUDA out of memory."]


def test_a_measure_that_fails_says_why_and_the_others_go_on(bench, monkeypatch, capsys):
    written = []
    journal = gpu_model.Journal(written.append)
    real = model_measures.tail
    monkeypatch.setattr(model_measures, "tail", lambda values: real(1 / 0))
    gpu_model.measure(bench, journal, WAYS[0], math.inf)
    assert {row["measure"] for row in journal.rows} == {"memory", "throughput", "waterfall"}
    (failure,) = (row for row in written if "failure" in row)
    assert failure["measure"] == "latency"
    assert failure["failure"][-1] == "ZeroDivisionError: division by zero"
    assert gpu_model.show(journal, Console(width=200)) == 1
    assert "Failed: latency of bf16: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_answers_that_are_no_numbers_end_the_run(bench):
    loaded = load(WAYS[0], bench.scope.config, CPU, bench.scope.max_tokens)
    loaded.first.model.blocks[0].input_norm.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        next(bench.latency(loaded))


def test_transformers_may_fail_and_we_may_not(bench):
    def fails(texts):
        raise RuntimeError("no such kernel\nmore")

    texts = [np.zeros(40)]
    ours, theirs = model_peer.beside(bench, "posts", texts, {model_peer.OURS: len, model_peer.THEIRS: fails})
    assert (ours["by"], ours["tokens_per_s"]) == (model_peer.OURS, 4000)
    assert theirs["reason"] == "RuntimeError: no such kernel"
    with pytest.raises(RuntimeError, match="no such kernel"):
        next(model_peer.beside(bench, "posts", texts, {model_peer.OURS: fails}))


def test_transformers_runs_the_same_shapes():
    model = model_peer.build(TINY_SHAPE, CPU)
    theirs = {
        name.removeprefix("model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    assert theirs == TINY.shapes()
    assert all(tensor.dtype == torch.bfloat16 for tensor in model.parameters())
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_run_appends_rows_with_what_made_them(monkeypatch, tmp_path):
    about = {"gpu": "straw", "sm_clock": "1980"}
    monkeypatch.setattr(gpu_model, "found", lambda options, console: (about | {"commit": "abc"}, LIMITS))
    monkeypatch.setattr(gpu_model, "gpu", lambda: about)
    monkeypatch.setattr(gpu_model, "Gpu", Straw)
    monkeypatch.setattr(gpu_model, "Scope", lambda config: gpu_model.TINY_SCOPE)
    monkeypatch.setattr(cold_start, "suite", lambda place, ahead: [{"kernels": ahead, "seconds": {}}])
    options = argparse.Namespace(out=tmp_path, dry_run=False, compiled="ahead")
    assert gpu_model.run(options, QUIET, math.inf, "bf16") == gpu_model.start(options, QUIET) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu_model.jsonl").read_text().splitlines()]
    assert {row["measure"] for row in rows} == {"memory", "latency", "throughput", "waterfall", "cold start"}
    wanted = {"gpu": "straw", "commit": "abc", "model": "4b", "matmul_flops_per_s": 1e14, "sm_clock": "1980"}
    assert all(row.items() >= wanted.items() for row in rows)
    assert rows[-1]["kernels"] == "ahead"


def test_a_rate_that_cannot_be_had_says_why(monkeypatch):
    rows = {row["rate"]: row for row in rates.rates(Straw(), LIMITS, side=32, copied=64)}
    assert rows["bf16 product"]["value"] == LIMITS.flops_per_s
    assert rows["copy from page-locked memory"]["value"] == 64 / 0.01
    assert math.isnan(rows["int8 product"]["value"])  # this device tells no time of a loop
    monkeypatch.setattr(torch, "_scaled_mm", lambda *_, **__: 1 / 0)
    failed = {row["rate"]: row for row in rates.rates(Straw(), LIMITS, side=32, copied=64)}
    assert failed["e4m3 product, scales by rows"]["failure"] == "ZeroDivisionError: division by zero"
    assert failed["copy from page-locked memory"]["value"] == 64 / 0.01


@pytest.mark.parametrize("recipe", [None, "hqq8", "hqq4", "hqq3"])
def test_random_weights_have_an_ordinary_size_and_are_the_same_again(recipe):
    source = RandomSource(MODEL, CPU, MODEL.recipe(NAMED[recipe]) if recipe else None)
    for name in ("layers.3.self_attn.k_proj.weight", "layers.0.linear_attn.in_proj_a.weight"):
        tensor = source.read(name)
        assert tensor.shape == source.tensors[name].shape
        assert tensor.float().std() == pytest.approx(STD, rel=0.1)
        assert torch.equal(source.read(name), tensor)
        matrix = source.quantized(name)
        assert (matrix is None) == (recipe is None or "in_proj_a" in name)
        assert matrix is None or torch.equal(dequantize(matrix, torch.bfloat16), tensor)
    assert not torch.equal(
        source.read("layers.3.self_attn.k_proj.weight"), source.read("layers.3.self_attn.v_proj.weight")
    )
    assert source.read("layers.0.linear_attn.A_log").isfinite().all()
    assert source.tensors.keys() == MODEL.shapes().keys()


@pytest.mark.parametrize("name", list(mixtures.MIXTURES))
def test_mixtures_are_prompts_with_one_prefix(name):
    texts = mixtures.prompts(mixtures.mixture(name, 200, 8192), 1000)
    assert all(np.array_equal(text[: mixtures.PREFIX], mixtures.random_prefix(1000)) for text in texts)
    assert max(map(len, texts)) <= 8192
    bodies = np.array([len(text) for text in texts]) - mixtures.PREFIX - mixtures.SUFFIX
    low, high = {"posts": (45, 65), "speeches": (600, 800), "articles": (1200, 1900)}[name]
    assert low < np.median(bodies) < high
    again = mixtures.prompts(mixtures.mixture(name, 200, 8192), 1000)
    assert all(np.array_equal(one, other) for one, other in zip(texts, again, strict=True))


def test_a_full_batch_has_no_padding():
    batch = full_batch(3, 17, 64)
    assert batch.shape == (3, 17, mixtures.PREFIX)
    assert batch.lengths.tolist() == [17] * 3
    assert batch.ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("kernel", "op"),
    [
        ("_serial_kernel", "delta_rule"),
        ("_merge_kernel", "last_attention"),
        ("_dequantize_kernel", LINEAR),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", LINEAR),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize96x128x32", LINEAR),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>", LINEAR),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", "causal_attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<256, 64, 64>>", "causal_attention"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80(PyTorchMemEffAttention)", "causal_attention"),
        ("void at::native::vectorized_elementwise_kernel<4>", OTHER),
        ("Memcpy HtoD (Pinned -> Device)", OTHER),
    ],
)
def test_kernels_have_owners(kernel, op):
    assert owner(kernel) == op


def test_every_kernel_of_ours_has_an_owner():
    launched = set()
    for info in pkgutil.iter_modules(slant_kernels.__path__):
        module = importlib.import_module(f"slant_kernels.{info.name}")
        launched |= {name for name in vars(module) if name.endswith("_kernel") and name.startswith("_")}
    assert not {name for name in launched if owner(name) == OTHER}


def test_limits_of_the_model_are_those_of_its_cases():
    least = floors(MODEL, 8, 1024, LIMITS, None)
    assert least["swiglu"] == pytest.approx(31 * 8192 * 3 * 9216 * 2 / 1e12)
    assert least["delta_rule"] > 0
    token, _ = MODEL.flops()
    # Of 8192 tokens the linear layers are bound by FLOPs; in_proj_a and in_proj_b by bytes.
    a_b = sum(2 * 2 * 32 * 2560 * 8192 for kind in MODEL.layer_types if kind == "linear_attention")
    assert least[LINEAR] * 1e14 == pytest.approx(token * 8192 - a_b, rel=0.01)
    fast = Limits(bytes_per_s=1e12, flops_per_s=1e15)  # few tokens are bound by the weights' bytes
    few, packed = (floors(MODEL, 1, 128, fast, recipe)[LINEAR] for recipe in (None, MODEL.recipe(NAMED["hqq4"])))
    assert 0.25 < packed / few < 0.45
    assert least.keys() == {op for _, op in OWNERS}


@pytest.mark.parametrize("last", ["full_attention", "linear_attention"])
def test_calls_are_those_of_the_model(monkeypatch, bench, last):
    config = replace(bench.scope.config, layer_types=(*bench.scope.config.layer_types[:-1], last))
    loaded, counted = load(WAYS[0], config, CPU, 64), dict.fromkeys(calls(config), 0)
    runner = loaded.runner(64)

    def count(op, name):
        module = blocks if hasattr(blocks, name) else network
        real = getattr(module, name)

        def counting(x, *arguments):
            at_one = 1 in (x.shape[1:3] if x.dim() > 2 else x.shape[:1]) and op not in ("last_attention", "embedding")
            counted[op] += not at_one
            return real(x, *arguments)

        monkeypatch.setattr(module, name, counting)

    for op in counted.keys() - {"delta_inputs", "delta_rule", "digit_head"}:
        count(op, op)
    model_measures.answers(runner, mixtures.prompts([mixtures.PREFIX + 16], 64))
    rest = dict.fromkeys(("delta_inputs", "delta_rule"), counted["delta_net"])
    assert counted | rest | {"digit_head": 1} == calls(config)


def test_shares_add_up_and_name_their_kernels():
    kernels = [Kernel("_swiglu_kernel", 3, 2e-6), Kernel("gemm_a", 9, 5e-6), Kernel("gemm_b", 1, 6e-6)]
    rows = waterfall(kernels, TINY, 2, 70, LIMITS, None)
    assert sum(row["microseconds"] for row in rows) == pytest.approx(13)
    assert all(row["kernel_seconds"] == pytest.approx(13e-6) for row in rows)
    assert (rows[0]["op"], rows[0]["calls"], rows[0]["kernels"]) == (LINEAR, 10, ("gemm_b", "gemm_a"))
    assert (rows[0]["microseconds"], rows[0]["share"]) == (pytest.approx(11), round(11 / 13, 4))
    idle = next(row for row in rows if row["op"] == "embedding")
    assert (idle["microseconds"], idle["of_limit"]) == (0, None)
    assert idle["limit_microseconds"] > 0


def test_a_cold_start_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(cold_start, "__file__", "/nowhere.py")
    with pytest.raises(RuntimeError, match="did not answer"):
        next(cold_start.suite("cpu"))
