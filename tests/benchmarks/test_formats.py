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
    assert formats.FORMATS[: len(formats.FIRST)] == list(formats.FIRST)
    assert set(formats.FORMATS[-len(formats.LAST) :]) == set(formats.LAST)


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


@pytest.mark.slow
def test_the_drift_of_the_demo(tmp_path):
    options = [str(FOLDER), "--drift", "--results", str(tmp_path), "--threads", "1"]
    assert formats.main([*options, "--formats", "fp32,int8,hqq2,auto", "--sets", "full,avx2"]) == 0
    found = rows(tmp_path)
    assert [(row["set"], row["format"]) for row in found] == [
        (name, each) for name in ("full", "avx2") for each in ("int8", "hqq2")
    ], "not of the reference, nor of what it is compared as"
    for row in found:
        assert (row["kind"], row["status"], row["model"], row["texts"]) == ("drift", "ok", "demo", 56)
        assert row["instructions"] == "avx2" or row["set"] == "full"
    few, many = found[:2]
    assert few["flips"] == 0
    assert 0 < 100 * few["kl"] < many["kl"]
    assert 0 < few["delta_p99"] < 0.1 < many["delta_p99"]
    text = "\n".join(format_figures.drift(format_figures.newest_formats(found)))
    assert f"| int8 | {few['kl']:.1e} ({few['delta_p99']:.3f}; 0) |" in text


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


def drift(name, kl, **more):
    row = {"kind": "drift", "status": "ok", "set": "full", "format": name, "kl": kl, "delta_p99": 0.0321, "flips": 1}
    return ABOUT | row | {"texts": 56, "model": "demo", "instructions": "avx512"} | more


def test_drift_is_the_newest_of_its_own_model():
    written = [
        drift("bf16", 9e-1),
        drift("int8", 7e-1, threads=64),
        drift("bf16", 8.6e-6),
        drift("hqq8", 0.0),
        load("bf16", threads=8),
    ]
    written += [drift("hqq4", 3e-3, set="avx2", instructions="avx2"), drift("fp8", None, status="failed")]
    newest = format_figures.newest_formats(written)
    text = "\n".join(format_figures.drift(newest))
    assert [row["threads"] for row in newest if row["kind"] == "load"] == [8], "whatever was measured after it"
    assert "from fp32 on 56 texts" in text
    assert "|  | on avx512 | on avx2 |" in text
    assert "| bf16 | 8.6e-06 (0.032; 1) |  |" in text
    assert "| hqq8 | 0 (0.032; 1) |  |" in text
    assert "| hqq4 |  | 3.0e-03 (0.032; 1) |" in text
    assert "Model `demo`, A Processor (avx512, avx2), 2 threads" in text
    assert "int8" not in text
    assert "fp8" not in text
    assert "demo" not in "".join(format_figures.formats(newest))
    assert list(format_figures.drift([load("bf16")])) == []


def test_points_of_the_picture():
    written = [score("fp32", "1x900", 6.0), score("fp32", "1x128", 1.0)]
    written += [
        load("int8", peak_rss=5e9),
        score("int8", "1x900", 2.0),
        score("int8", "1x128", 0.1),
        drift("int8", 1e-4),
    ]
    written += [load("hqq4"), score("hqq4", "1x128", 0.5), drift("hqq4", 1e-2)]
    written += [load("hqq3"), score("hqq3", "posts", 0.5), drift("hqq3", 1e-2)]
    written += [score("hqq2", "1x900", 0.5), drift("hqq2", 1e-2)]
    written += [load("fp8"), score("fp8", "1x900", 0.5)]
    written += [load("w4a8"), score("w4a8", "1x900", None, status="skipped"), drift("w4a8", 1e-2)]
    avx2 = {"set": "avx2", "instructions": "avx2"}
    written += [load(name, **avx2) for name in ("bf16", "int8")] + [drift("int8", 2e-4, **avx2)]
    written += [score("bf16", "1x900", 9.0, **avx2), score("int8", "1x900", 3.0, **avx2)]
    written += [
        load("int8", set="avx512"),
        score("int8", "1x900", 3.0, set="avx512"),
        drift("int8", 1e-4, set="avx512"),
    ]
    points = format_figures.drift_by_speed(written)
    keys = ("set", "format", "speed", "base", "workload", "kl")
    assert [tuple(point[key] for key in keys) for point in points] == [
        ("full", "int8", 3.0, "fp32", "1x900", 1e-4),
        ("full", "hqq4", 2.0, "fp32", "1x128", 1e-2),
        ("avx2", "int8", 3.0, "bf16", "1x900", 2e-4),
    ]
    assert [(point["peak_rss"], point["model"], point["drifting"]) for point in points] == [
        (size, "random", "demo") for size in (5e9, 8.76e9, 8.76e9)
    ]


def test_the_picture_says_what_it_shows(tmp_path):
    pictures = pytest.importorskip("pictures")
    written = [load("fp32"), score("fp32", "1x900", 6.0), score("fp32", "1x128", 1.0)]
    written += [load("int8", peak_rss=5e9), score("int8", "1x900", 2.0), drift("int8", 1e-4)]
    written += [load("hqq4"), score("hqq4", "1x128", 0.5), drift("hqq4", 1e-2)]
    avx2 = {"set": "avx2", "instructions": "avx2"}
    for name, kl in (("fp32", None), ("bf16", 0.0)):
        written += [load(name, **avx2), score(name, "1x900", 3.0, **avx2)] + [drift(name, kl, **avx2)] * (
            kl is not None
        )
    path = tmp_path / "formats.svg"
    pictures.formats(format_figures.drift_by_speed(written), path)
    text = path.read_text()
    for words in (
        ">avx512<",
        ">avx2<",
        ">int8, 5.0 GB<",
        ">hqq4, 8.8 GB, 128 tokens<",
        ">bf16, 8.8 GB, no drift<",
        ">tokens/s relative to fp32<",
        ">speed and memory: random, a text of 900 tokens<",
        ">mean KL to fp32 in nats, demo<",
    ):
        assert words in text, words
    assert "#ffffff" not in text
    assert "#000000" not in text


def test_the_page_has_the_picture_where_there_are_points(tmp_path):
    report = pytest.importorskip("report")
    written = [load("fp32"), score("fp32", "1x900", 6.0), drift("int8", 1e-4)]
    shown = []
    for more in ([], [load("int8"), score("int8", "1x900", 2.0)]):
        written += more
        (tmp_path / "formats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
        report.draw(tmp_path)
        text = report.section(tmp_path)
        assert "| int8 | 1.0e-04 (0.032; 1) |" in text
        shown.append(("formats.svg)" in text, (tmp_path / "formats.svg").exists()))
    assert shown == [(False, False), (True, True)]
