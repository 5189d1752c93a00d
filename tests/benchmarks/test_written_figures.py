"""The figures of docs/benchmarks.md, those of the newest rows and of no others; and that those of no page are typed."""

import json

import pytest

import report

ABOUT = {
    "time": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "torch": "2.99.0",
    "triton": None,
    "transformers": "5.99.0",
    "processor": "A Processor",
    "capability": "AVX512",
    "bf16": True,
    "amx": False,
    "threads": 2,
    "model": "random",
}
LATER = {"time": "2026-02-03T04:05:06+00:00", "commit": "def5678"}
README = f"# It\n\n## How fast\n\n{report.BEGIN}\nold\n{report.END}\n\nEnd.\n"


def peer(system, workload="8x128", ratio=1.0, **more):
    row = {"workload": workload, "texts": 8, "tokens": 1024, "system": system, "batch": 8, "peak_rss": 2e9}
    spread = {"p20": ratio, "p50": 2 * ratio, "p80": 3 * ratio}
    rates = {"tokens_per_second": 512 / ratio, "texts_per_second": 4 / ratio}
    return ABOUT | row | {"seconds": spread, "ratio": ratio, "agreement": 1.0} | rates | more


def model(rows, length, rate, **more):
    seconds = rows * length / rate
    row = {"group": "model", "workload": f"{rows}x{length}", "shape": [rows, length], "tokens": rows * length}
    row |= {"seconds": {"p20": 0.9 * seconds, "p50": seconds, "p80": 1.2 * seconds}, "tokens_per_second": rate}
    return ABOUT | row | {"flops": 1e9 * rows * length, "limit_s": seconds / 2, "of_limit": 0.5} | more


LIMIT = ABOUT | {"group": "limit", "workload": "limit", "flops_per_s": 7.5e11, "bytes_per_s": 4.2e10}
SPREAD = {"p20": 0.1, "p50": 0.25, "p80": 0.5}
HOST = [
    ABOUT | {"group": "tokenization", "workload": "demo passages", "seconds": SPREAD, "texts_per_second": 12345.0},
    ABOUT | {"group": "cold_start", "workload": "slant demo", "seconds": SPREAD},
    ABOUT | {"group": "ops", "workload": "swiglu", "seconds": SPREAD},
]
SLOPE = {"kind": "slope", "series": "one text", "grows": "length", "part": "long", "first": 512, "last": 8192}
SLOPE = ABOUT | SLOPE | {"exponent": 1.0312, "low": 1.011, "high": 1.059, "seconds_at_1": 1e-3}
POINT = ABOUT | {"kind": "point", "series": "one text", "texts": 1}
POINTS = [POINT | {"length": n, "seconds": {"p20": n, "p50": 1.1 * n, "p80": 2 * n}} for n in (512, 8192)]
FLAT = {"kind": "flatness", "series": "texts of 128", "length": 128, "to": 64, "best_over_worst": 1.3, "aim": 1.2}
FLAT = ABOUT | FLAT
FILL = ABOUT | {"kind": "padding", "workload": "speeches", "texts": 254, "real": True, "fill": 0.9448, "aim": 0.93}
ROWS = {
    "peers": [peer("slant-bf16"), peer("transformers-bf16-8", ratio=1.42)],
    "cpu": [LIMIT, model(1, 16, 180.0), model(1, 2048, 430.0), model(8, 128, 480.0), *HOST],
    "growth": [*POINTS, SLOPE, FLAT, FILL],
}


@pytest.fixture
def written(tmp_path):
    """Writes result files, and gives what the report says of them, in one line."""

    def say(**files):
        for name, rows in files.items():
            lines = [json.dumps(row) + "\n" for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        return " ".join(report.section(tmp_path).split())

    return say


def test_the_page_is_what_the_rows_give():
    assert report.main(["--check"]) == 0, "run python benchmarks/report.py"


def test_without_rows_it_says_so(written):
    assert written() == report.NOTHING


def test_peers_side_by_side(written):
    said = written(peers=[*ROWS["peers"], peer("slant-bf16", "posts", peak_rss=3e9), peer("llama", "posts", ratio=0.5)])
    assert "| | 8x128 | posts | peak memory | logits off by |" in said
    assert "| slant bf16 | 512 | 512 | 3.0 GB | 1.000 |" in said
    assert "| transformers bf16 | 361 (1.42) | | 2.0 GB | 1.000 |" in said
    assert "| llama | | 1,024 (0.50) | 2.0 GB | 1.000 |" in said
    assert "A Processor (AVX512, AVX512-BF16), 2 threads, 2026-01-02, commit abc1234, torch 2.99.0" in said


def test_each_instruction_set_has_a_table_the_best_first(written):
    old = [peer("slant-bf16", ratio=9.0), peer("gone")]
    sets = [peer("slant-bf16", ratio=i + 1.0, instructions=name) for i, name in enumerate(("avx2", "avx512bf16"))]
    said = written(peers=[*old, *sets, peer("llama", ratio=4.0, agreement=None, instructions="avx2")])
    assert said.index("| slant bf16 | 256 |") < said.index("A Processor (avx512bf16), 2 threads")
    assert (
        said.index("(avx512bf16)")
        < said.index("| slant bf16 | 512 |")
        < said.index("| llama | 128 (4.00) | 2.0 GB | |")
    )
    assert said.count("Tokens/s, all systems in turn") == 1
    assert "gone" not in said


def test_slant_stands_first(written):
    said = written(peers=[peer("a peer", ratio=2.0), peer("slant-fp32", ratio=3.0)])
    assert said.index("slant fp32 |") < said.index("a peer |")


@pytest.mark.parametrize("names", [("llama-q8_0-1", "llama-q8_0-prefix"), ("llama q8_0", "llama q8_0 x8")])
def test_of_a_systems_batch_sizes_the_best_counts(names, written):
    rows = [peer(name, ratio=2.0 + i, peak_rss=(3 - i) * 1e9) for i, name in enumerate(names)]
    for ordered in (rows, rows[::-1]):
        said = written(peers=ordered)
        assert "| llama q8_0 | 256 (2.00) | 3.0 GB |" in said
        assert said.count("| llama") == 1


def test_a_system_of_another_input_counts_texts(written):
    assert "| minilm | 40 texts (0.10) |" in written(peers=[peer("minilm", ratio=0.1, reads_text=True)])


def test_the_table_is_of_a_few_workloads(written):
    other = [peer("slant-bf16", "1x4096", peak_rss=9e9), peer("llama", "1x4096")]
    said = written(peers=[*ROWS["peers"], *other])
    assert "| | 8x128 | peak memory |" in said
    assert "9.0 GB" not in said
    assert "llama" not in said
    assert written(peers=other) == report.NOTHING


def test_of_a_system_and_workload_the_newest_row_counts(written):
    newer = peer("transformers-bf16-8", ratio=1.6) | LATER
    said = written(peers=[*ROWS["peers"], newer])
    assert "(1.60)" in said
    assert "(1.42)" not in said
    assert "2026-01-02 to 2026-02-03, commit abc1234, def5678" in said


@pytest.mark.parametrize("other", [{"model": "small"}, {"processor": "Another"}, {"threads": 64}])
def test_rows_of_other_machines_and_models_are_not_mixed_in(other, written):
    said = written(peers=[peer("llama", ratio=0.1) | other, *ROWS["peers"]])
    assert "llama" not in said


@pytest.mark.parametrize("why", [{"skipped": "it needs AMX."}, {"status": "it needs AMX", "tokens_per_second": None}])
def test_what_has_no_figure_says_why(why, written):
    missing = [ABOUT | {"system": "vllm-1", "workload": name} | why for name in ("8x128", "posts")]
    assert written(peers=[*ROWS["peers"], *missing]).count("* Without vllm: it needs AMX. ") == 1
    said = written(peers=missing)
    assert said.startswith("* Without vllm: it needs AMX. Model")


def test_what_was_measured_elsewhere_is_not_missing(written):
    slow = ABOUT | {"system": "slant-bf16", "workload": "posts", "status": "skipped: predicted 99 s"}
    said = written(peers=[*ROWS["peers"], slow])
    assert "Without" not in said
    assert "| slant bf16 | 512 | | 2.0 GB |" in said


def test_a_system_without_a_measured_memory_shows_none(written):
    assert "| llama | 512 (1.00) | |" in written(peers=[*ROWS["peers"], peer("llama", peak_rss=None)])


def test_the_suite(written):
    said = written(cpu=ROWS["cpu"])
    assert "* 1 text of 16 tokens: 0.0889 s (0.08 to 0.107)." in said
    assert "* 1 text of 2048 tokens: 4.76 s (4.29 to 5.72)." in said
    assert "* Most tokens/s: 480, with 8 texts of 128 tokens, 50% of the roofline" in said
    assert "at 750 GFLOP/s, or reading its weights at 42 GB/s" in said
    assert "* Tokenizing demo passages: 12,345 texts/s." in said
    assert "* A new process for `slant demo`: 0.25 s (0.1 to 0.5)." in said
    assert "![" in said
    assert "swiglu" not in said


def test_the_newest_whole_run_counts(written):
    newer = [row | LATER for row in (LIMIT, model(1, 16, 200.0), model(8, 128, 600.0))]
    said = written(cpu=[*ROWS["cpu"], *newer])
    assert "600, with 8 texts" in said
    assert "2048" not in said
    partial = HOST[2] | LATER
    assert "480, with 8 texts" in written(cpu=[*ROWS["cpu"], partial])
    assert written(cpu=[LIMIT, partial]) == report.NOTHING


def test_growth_beside_its_aims(written):
    said = written(growth=[*ROWS["growth"], SLOPE | {"part": "one batch", "last": 1024}])
    assert said.count("time grows") == 1
    power = "From 512 to 8192 tokens of a text, time grows to the power 1.03 (95 % of resampled rounds: 1.01 to 1.06)."
    assert power in said
    assert "1 to 64 texts of 128 tokens: the best rate is 1.30 times the worst (the aim: at most 1.20; missed)." in said
    assert "254 speeches: 94.5% of the computed tokens are real (the aim: at least 93%)." in said


def test_aims_met_and_missed(written):
    said = written(growth=[*POINTS, FLAT | {"best_over_worst": 1.19}, FILL | {"real": False, "fill": 0.92}])
    assert "1.19 times the worst (the aim: at most 1.20)." in said
    drawn = "254 speeches of drawn lengths: 92.0% of the computed tokens are real (the aim: at least 93%; missed)."
    assert drawn in said


def test_lines_are_not_long(tmp_path, written):
    written(**ROWS)
    lines = report.section(tmp_path).splitlines()
    assert max(len(line) for line in lines if not line.startswith(("|", "!"))) <= 120


@pytest.fixture
def root(tmp_path):
    """A folder with the pages, each as README above."""
    (tmp_path / "docs").mkdir()
    for name in report.PAGES:
        (tmp_path / name).write_text(README, encoding="utf-8")
    return tmp_path


def test_the_command_writes_checks_and_draws(root, written, capsys):
    written(**ROWS)
    page, options = root / "docs" / "benchmarks.md", ["--results", str(root), "--root", str(root)]
    assert report.main([*options, "--check"]) == 1
    assert capsys.readouterr().err.count("run python benchmarks/report.py") == len(report.PAGES)
    assert page.read_text() == README
    assert not list(root.glob("*.svg"))

    assert report.main(options) == 0
    text = page.read_text()
    assert text.startswith(README.partition(report.BEGIN)[0])
    assert text.endswith(README.partition(report.END)[2])
    assert "1,024" not in text
    assert "old" not in text
    assert report.main([*options, "--check"]) == 0
    pictures = {path.name: path.read_bytes() for path in root.glob("*.svg")}
    assert pictures.keys() == {"cpu.svg", "growth.svg", "peers.svg"}
    assert report.main(options) == 0
    assert pictures == {path.name: path.read_bytes() for path in root.glob("*.svg")}

    page.write_text(text.replace("480, with", "490, with"), encoding="utf-8")
    assert report.main([*options, "--check"]) == 1
    page.write_text(text, encoding="utf-8")
    written(cpu=[row | LATER for row in ROWS["cpu"]])
    assert report.main([*options, "--check"]) == 1


@pytest.mark.parametrize("name", report.PAGES)
def test_each_page_is_checked_and_has_its_own_figures(name, root, capsys):
    options = ["--results", str(root), "--root", str(root)]
    assert report.main(options) == 0
    page = root / name
    assert page.read_text().split(report.BEGIN)[1].split(report.END)[0] == f"\n{report.PAGES[name](root)}\n"
    page.write_text(README, encoding="utf-8")
    assert report.main([*options, "--check"]) == 1
    assert f"{page} is not what the rows give" in capsys.readouterr().err


@pytest.mark.parametrize(
    "readme",
    ["# It\n", f"{report.BEGIN}\n", f"{report.END}\n{report.BEGIN}\n", README + README, README + report.END],
)
@pytest.mark.parametrize("name", report.PAGES)
def test_without_the_markers_of_a_page_all_are_left_alone(name, readme, root, capsys):
    (root / name).write_text(readme, encoding="utf-8")
    before = {page: (root / page).read_text() for page in report.PAGES}
    assert report.main(["--root", str(root), "--results", str(root)]) == 2
    assert "once each" in capsys.readouterr().err
    assert {page: (root / page).read_text() for page in report.PAGES} == before


def test_a_damaged_row_is_named(root, written, capsys):
    written(**ROWS)
    (root / "cpu.jsonl").write_text("{}\n{", encoding="utf-8")
    assert report.main(["--root", str(root), "--results", str(root)]) == 2
    assert "cpu.jsonl, line 2 is not JSON; remove it." in capsys.readouterr().err
