"""The figures of docs/gpu.md and the README's paragraph: rows of the GPU suite in, text out."""

import json

import pytest

import report
from gpu import figures

OLD, NEW = "2026-01-02T03:04:05+00:00", "2026-01-03T03:04:05+00:00"
ABOUT = {"time": OLD, "commit": "abc1234", "torch": "2.99.0", "triton": "3.99", "transformers": "5.99.0"}
ABOUT |= {"gpu": "A Card", "compute_capability": "9.0", "driver": "1.2", "checks": "all right", "model": "4b"}


def row(measure, weights="bf16", **values):
    return ABOUT | {"measure": measure, "weights": weights} | values


def latency(texts, tokens, ms, by="eager", weights="bf16", **more):
    values = {"texts": texts, "tokens": tokens, "by": by, "milliseconds": {"p50": ms}, "equals_eager": None}
    return row("latency", weights, **values | more)


def throughput(mixture, texts, rate, weights="bf16", **more):
    values = {"mixture": mixture, "texts": texts, "tokens_per_s": rate, "texts_per_s": rate / 100}
    return row("throughput", weights, **values | {"of_matmul": 0.61} | more)


def memory(peak, weights="bf16", **more):
    return row("memory", weights, peak_bytes=peak, predicted_peak_bytes=0.9e9, **more)


def peer(by, seconds, **more):
    values = {"mixture": "posts", "texts": 64, "by": by, "peer_batch": 8, "fla": False}
    return row("peers", **values | {"seconds": {"p50": seconds}, "tokens_per_s": 5e3 / seconds} | more)


def op(name, share, took, limit, batch="8 x 1024", **more):
    values = {"batch": batch, "op": name, "share": share, "microseconds": took, "limit_microseconds": limit}
    times = {"kernel_seconds": 0.0987, "batch_seconds": 0.104, "of_limit": round(limit / took, 4)}
    return row("waterfall", **values | times | more)


def check(name="swiglu", right=True, group="ops", **more):
    values = {"group": group, "check": name, "shape": "8 x 1024", "dtype": "bf16", "error": 0.5, "bound": 0.25}
    return ABOUT | values | {"right": right, "seconds": 1.0, "note": "", "failure": ""} | more


RATES = [
    row("rates", "", rate="bf16 product", value=7.79e14, unit="FLOP/s"),
    row("rates", "", rate="e4m3 product", value=1.2081e15, unit="FLOP/s"),
    row("rates", "", rate="copy from page-locked memory", value=5.46e10, unit="B/s"),
    row("rates", "", rate="launch of one kernel", value=3.09e-5, unit="s"),
]
WAY = [
    latency(1, 16, 16.7),
    latency(1, 16, 4.02, "graph", equals_eager=True),
    latency(8, 1024, 104.8),
    throughput("posts", 64, 11111),
    throughput("posts", 512, 88992),
    throughput("speeches", 64, 72276),
    memory(0.9137e9),
]
SECONDS = dict.fromkeys(figures.PARTS, 0.5)
START = row("cold start", "demo checkpoint, bf16", kernels="ahead of time", seconds=SECONDS, total_seconds=3.0)
OPS = [
    op("linear", 0.79, 78000, 72540),
    op("swiglu", 0.2, 3300, 5115),
    op("other", 0.008, 700, 0),
    op("linear", 0.7, 80000, 73600, "1 x 8192"),
    op("linear", 0.6, 1, 1, "1 x 128"),
]


@pytest.fixture
def written(tmp_path):
    """Writes result files, and gives what the page says of them, in one line."""

    def say(model=(), correct=()):
        for name, rows in (("model", model), ("correct", correct)):
            lines = [json.dumps(row) + "\n" for row in rows]
            (tmp_path / f"gpu_{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        return " ".join(figures.section(tmp_path).split())

    return say


def test_without_rows_it_says_so(tmp_path, written):
    assert written() == figures.NOTHING
    assert figures.summary(tmp_path) == figures.NO_SUMMARY


def test_the_card_and_what_it_reaches(written):
    said = written(RATES)
    assert "### A Card A Card (compute capability 9.0), driver 1.2, torch 2.99.0, Triton 3.99, 2026-01-02," in said
    assert "commit abc1234; `python benchmarks/gpu_suite.py`. The model has random weights of Qwen3.5-4B's" in said
    assert "reaches 779 TFLOP/s (bf16 product); 1,208 TFLOP/s (e4m3 product); 54.6 GB/s (copy" in said
    assert "30.9 µs (launch of one kernel)." in said


def test_a_line_for_each_way_of_holding_the_weights(written):
    said = written([*WAY, latency(1, 16, 5.09, weights="hqq4"), memory(0.4e9, "hqq4, offload")])
    assert "| weights | 1x16, ms | 8x1024, ms | posts, tokens/s | speeches, tokens/s | of the matmul rate |" in said
    assert "| bf16 | 4.02 g | 105 | 88,992 | 72,276 | 61% | 0.91 GB (0.90) |" in said
    assert "| hqq4 | 5.09 | | | | | |" in said
    assert "| hqq4, offload | | | | | | 0.40 GB (0.90) |" in said
    assert "the 30 tokens of the shared prefix included" in said
    assert "88,992" in said
    assert "22,222" not in said
    assert "11,111" not in said


def test_the_newest_time_of_a_measure_and_way_counts(written):
    newer = latency(1, 16, 3.3, time=NEW, commit="def5678")
    for rows in ([*WAY, newer], [newer, *WAY]):
        said = written(rows)
        assert "| bf16 | 3.3 | 88,992 |" in said
        assert "2026-01-02 to 2026-01-03" in said
        assert "4.02" not in said
        assert "105" not in said
    assert "| bf16 | 4.02 g |" in written([*WAY, latency(1, 16, 3.3, weights="hqq8", time=NEW)])


def test_each_card_has_its_own_figures(tmp_path, written):
    said = written([*WAY, latency(1, 16, 9.9, gpu="Another", time=NEW)])
    assert said.index("### Another") < said.index("| bf16 | 9.9 |") < said.index("### A Card")
    assert "| bf16 | 4.02 g |" in said
    assert "On one A Card" in " ".join(figures.summary(tmp_path).split())  # the other has none of its figures


@pytest.mark.parametrize("rows", [RATES, WAY, [START], OPS, [peer("slant", 1.0), peer("transformers", 2.0)]])
def test_a_measure_that_is_missing_leaves_no_hole(rows, tmp_path, written):
    written(rows)
    parts = figures.section(tmp_path).split("\n\n")
    assert all(part.strip() for part in parts)
    assert len(parts) == (3 if rows is RATES else 5 if rows is OPS else 4)
    lines = [line for part in parts for line in part.splitlines()]
    assert max(len(line) for line in lines if not line.startswith(("|", "!"))) <= 120


def test_checks_by_group_and_the_wrong_ones(written):
    checks = [check(), check("norm"), check("demo", False, "model"), check("x", group="model", error=None)]
    said = written(RATES, checks)
    assert "3 checks are right and 1 wrong (ops 2 of 2, model 1 of 2)." in said
    assert "* Wrong: model, demo, 8 x 1024, bf16 (error 0.5, bound 0.25)." in said
    raised = check("demo", False, error=None, bound=None, failure="RuntimeError: no such kernel.\nTraceback")
    assert "* Wrong: ops, demo, 8 x 1024, bf16: RuntimeError: no such kernel." in written(RATES, [raised])
    assert "bf16 (error 0.5, bound 0.25): result 1." in written(RATES, [check(right=False, note="result 1")])
    mended = check("a check of another name", group="model", time=NEW)
    for rows in ([*checks, mended], [mended, *checks]):
        said = written(RATES, rows)
        assert "3 checks are right and 0 wrong (" in said
        assert "ops 2 of 2" in said
        assert "model 1 of 1" in said
        assert "Wrong:" not in said
    assert "3 checks are right and 1 wrong" in written(RATES, [*checks, check("other", gpu="Another")])


def test_figures_after_a_failed_check_are_named(written):
    said = written([*WAY, latency(1, 16, 5.0, weights="hqq4", checks="2 wrong")])
    assert "* 2 wrong in the run that measured hqq4." in said
    assert "in the run that" not in written(WAY)


def test_a_graph_that_answers_otherwise_is_named(written):
    wrong = latency(1, 128, 4.7, "graph", equals_eager=False)
    assert "* The graph of 1 x 128 tokens with bf16 answers otherwise" in written([*WAY, wrong])
    assert "otherwise" not in written(WAY)


def test_what_failed_last_is_named_and_hides_no_older_figure(written):
    failed = row("latency", failure=["Traceback", "RuntimeError: no such kernel."], time=NEW)
    said = written([*WAY, *RATES, failed, row("rates", "", rate="int8 product", unit="FLOP/s", failure="no int8")])
    assert "| bf16 | 4.02 g |" in said
    assert "* Failed on 2026-01-03: latency bf16: RuntimeError: no such kernel." in said
    assert "* Failed on 2026-01-02: rates int8 product: no int8." in said
    later = "2026-01-04T00:00:00+00:00"
    assert "Failed" not in written([*WAY, failed, latency(1, 16, 3.3, time=later)])


def test_transformers_beside_slant(written):
    said = written([peer("slant", 0.5), peer("transformers", 1.65, fla=True)])
    assert "Beside transformers 5.99.0, both in bf16," in said
    assert "batches of 8 sorted by length, with flash-linear-attention installed:" in said
    assert "* 64 posts: slant 10,000 tokens/s, transformers 3,030, 3.30 times as long." in said
    assert "without flash-linear-attention" in written([peer("slant", 0.5), peer("transformers", 1.65)])
    reason = {"mixture": "posts", "by": "transformers", "peer_batch": 8, "fla": True, "reason": "OutOfMemory: it."}
    said = written([peer("slant", 0.5), row("peers", **reason)])
    assert "* Posts: transformers was not measured: OutOfMemory: it." in said


def test_a_new_process_by_its_parts(written):
    said = written([START, START | {"kernels": "compiled", "total_seconds": 9.25}])
    assert "| kernels compiled | import | device | load | compile | capture | answer | total |" in said
    assert "| ahead of time | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 3.00 |" in said
    assert "| none before | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 9.25 |" in said


def test_ops_of_two_batches_and_their_limits(written):
    said = written(OPS)
    assert "98.7 of 104 ms (8 x 1024) and 98.7 of 104 ms (1 x 8192)" in said
    assert "| linear | 79.0% | 93% | 70.0% | 92% |" in said
    assert "| swiglu | 20.0% | 155% | | |" in said
    assert "| the rest | 0.8% | | 0.0% | |" in said
    assert "Above 100 %" in said
    assert said.endswith("(../benchmarks/results/gpu_waterfall.svg)")
    assert "| other | 2.0% | |" in written([op("other", 0.02, 700, 0)])
    within = written([OPS[0], OPS[2], op("swiglu", 0.2, 3300, 3299)])
    assert "| op | 8 x 1024 | 8 x 1024: of its limit |" in within
    assert "Above 100 %" not in within


def test_the_summary_has_the_figures_that_were_measured(tmp_path, written):
    def summary(*rows):
        written(rows)
        return " ".join(figures.summary(tmp_path).split())

    beside = peer("slant", 1), peer("transformers", 3)
    said = summary(*WAY, latency(1, 128, 17.1), latency(1, 128, 4.75, "graph"), *beside)
    start = "On one A Card with random weights of Qwen3.5-4B's shape in bf16: "
    measured = "890 posts/s (88,992 tokens/s), 4.75 ms for one text of 128 tokens, a peak of 0.9 GB; transformers takes"
    assert said.startswith(f"{start}{measured} 3.0 times as long for 64 posts. 2026-01-02, `python")
    assert summary(memory(2e9)).startswith(f"{start}a peak of 2.0 GB. 2026-01-02,")
    speeches = [throughput("speeches", 64, rate, weights) for weights, rate in (("bf16", 50_000), ("fp8", 70_000))]
    assert "70,000 tokens/s of speeches in fp8, 1.40 times bf16's. 2026" in summary(*speeches)
    speeches[0]["commit"] = "another"
    assert "70,000 tokens/s of speeches in fp8. 2026" in summary(*speeches)
    assert summary(*RATES, latency(1, 128, 4.75, weights="hqq4")) == figures.NO_SUMMARY


def test_the_picture_is_of_each_cards_newest_batch_in_bf16(tmp_path, written):
    newer = [one | {"time": NEW} for one in OPS]
    other = op("delta_rule", 0.9, 50, 10, gpu="Another")
    written([*OPS, *newer, other, op("hidden", 0.9, 50, 10) | {"weights": "hqq4", "time": NEW}])
    rows = figures.waterfalls(tmp_path)
    assert [(one["gpu"], one["op"]) for one in rows] == [
        ("A Card", "linear"),
        ("A Card", "swiglu"),
        ("A Card", "other"),
        ("Another", "delta_rule"),
    ]
    assert all(one["time"] == NEW for one in rows[:3])
    pytest.importorskip("matplotlib")
    report.draw(tmp_path)
    drawn = (tmp_path / "gpu_waterfall.svg").read_text()
    for text in (">A Card, bf16, 8 x 1024 tokens<", ">Another, bf16, 8 x 1024 tokens<", ">swiglu<", ">delta_rule<"):
        assert drawn.count(text) == 1
