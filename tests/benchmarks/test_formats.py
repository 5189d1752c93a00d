"""Every weight format in a process of its own: the command on the demo, what it skips, and what the page says."""

import json

import pytest
from test_written_figures import ABOUT

import format_figures
import formats
from slant.demo import FOLDER
from slant.options import WEIGHTS
from slant_kernels import native


def rows(folder):
    return [json.loads(line) for line in (folder / "formats.jsonl").read_text().splitlines()]


def test_every_weight_format_is_known_the_most_important_first():
    assert set(formats.FORMATS) == set(WEIGHTS)
    assert formats.FORMATS[:4] == list(formats.FIRST)
    assert set(formats.FORMATS[-2:]) == set(formats.LAST)


@pytest.mark.slow
def test_the_command_on_the_demo(tmp_path):
    options = [str(FOLDER), "--artifacts", str(tmp_path), "--results", str(tmp_path), "--rounds", "2", "--threads", "1"]
    options += ["--formats", "bf16,hqq4", "--workloads", "1x16,2x32,posts", "--sets", "full,avx2", "--least", "60"]
    assert formats.main(options) == 0
    found = rows(tmp_path)
    assert all(row["status"] == "ok" for row in found), found
    assert {(row["set"], row["format"]) for row in found} == {
        (s, f) for s in ("full", "avx2") for f in ("bf16", "hqq4")
    }
    assert [row["format"] for row in found if row["kind"] == "quantize"] == ["hqq4"], "once, for both instruction sets"
    for row in found:
        if row["kind"] == "load":
            assert 0 < row["load_s"] < row["cold_s"]
            assert row["peak_rss"] >= row["rss_loaded"] > 1e8
            assert row["tier"] == ("quantized" if row["format"] == "hqq4" and native.level() else "resident")
            assert row["instructions"] == "avx2" or row["set"] == "full"
        elif row["kind"] == "score":
            assert row["rounds"] == 2
            assert (row["texts"], row["tokens"]) == {"1x16": (1, 16), "2x32": (2, 64)}.get(
                row["workload"], (64, row["tokens"])
            )
    assert "| bf16 |" in "".join(format_figures.formats(format_figures.newest_formats(found)))


@pytest.mark.slow
def test_what_does_not_fit_the_time_is_skipped_and_a_broken_model_is_told(tmp_path):
    options = [str(FOLDER), "--results", str(tmp_path), "--rounds", "1", "--minutes", "0", "--least", "0"]
    assert formats.main([*options, "--formats", "bf16", "--workloads", "1x16"]) == 0  # it is loaded
    assert [row["status"][:7] for row in rows(tmp_path)] == ["ok", "skipped"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("tokenizer.json", "config.json"):
        (broken / name).write_bytes((FOLDER / name).read_bytes())
    assert formats.main([str(broken), *options[1:], "--formats", "bf16,hqq4", "--artifacts", str(tmp_path)]) == 1
    ends = rows(tmp_path)[2:]
    assert [(row["kind"], row["status"][:6]) for row in ends] == [("end", "failed"), ("quantize", "failed")]
    assert "safetensors" in ends[0]["status"]


def load(name, **more):
    row = {"kind": "load", "status": "ok", "set": "full", "format": name, "load_s": 3.21, "cold_s": 6.54}
    return ABOUT | row | {"peak_rss": 8.76e9, "instructions": "avx512", "tier": "resident"} | more


def score(name, workload, seconds, **more):
    spread = seconds and {"p20": 0.9 * seconds, "p50": seconds, "p80": 2 * seconds}
    row = {"kind": "score", "status": "ok", "set": "full", "format": name, "workload": workload, "seconds": spread}
    return ABOUT | row | more


def test_the_page_has_the_newest_rows_of_one_machine():
    written = [
        load("bf16", load_s=9.9),
        load("bf16", processor="Another"),
        load("bf16"),
        score("bf16", "1x900", 4.56),
        score("bf16", "posts", 33.3),
        score("bf16", "1x16", 0.123),
        load("int8"),
        score("int8", "1x8192", None, status="skipped: predicted 90 s"),
        score("int8", "1x900", 2.28),
        {**ABOUT, "kind": "end", "set": "full", "format": "fp32", "status": "failed"},
        load("hqq4") | {"kind": "quantize", "seconds": {"p50": 321.4}, "bytes": 2.9e9},
        load("fp32", set="avx2", instructions="avx2"),
        score("fp32", "posts", 77.7, set="avx2"),
    ]  # fmt: skip
    text = "\n".join(format_figures.formats(format_figures.newest_formats(written)))
    assert "| on avx512 | load | first answer | peak memory | 1x16 | 1x900 | posts |" in text
    assert "| bf16 | 3.2 | 6.5 | 8.8 GB | 0.123 | 4.56 | 33.3 |" in text
    assert "| int8 | 3.2 | 6.5 | 8.8 GB |  | 2.28 |  |" in text
    assert "| on avx2 | load | first answer | peak memory | posts |" in text
    assert "`slant quantize` to hqq4: 321 s, 2.9 GB" in text
    assert list(format_figures.formats([])) == []
