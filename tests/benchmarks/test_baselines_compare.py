"""The baselines as systems: what is fitted and kept, what their rows say, and the command on one's own tables."""

import json

import numpy as np
import pytest
from rich.progress import Progress

import classifier
import compare_baselines
from baselines import systems
from baselines.data import Labelled
from baselines.features import FinalPosition
from baselines.packaged import ModelAbsent
from baselines.systems import ALPHAS, Checkpoint, Linear, Majority, fitted
from compare_baselines import main, reason, table
from harness.rows import read
from slant import demo
from slant.engine import Engine
from slant.errors import SlantError


def labelled(count=60, names=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), count)
    return Labelled(tuple(f"text {i} {labels[i]}" for i in range(count)), labels, names, np.array(["g"] * count))


def test_a_checkpoint_answers_in_the_order_of_the_datas_labels(tmp_path):
    folder = classifier.write(tmp_path)  # labels left, middle, right
    texts = ["One.", "Another text.", "A third one, longer."]
    expected = Engine.load(folder, weights="fp32", device="cpu").score(texts)
    system = Checkpoint("tiny", checkpoint=folder, weights="fp32")
    for names, order in ((("Right", "left", "middle"), [2, 0, 1]), (("2", "0", "1"), [2, 0, 1])):
        answers = system.load(tmp_path, names)(texts)
        np.testing.assert_array_equal(answers, expected.probabilities[:, order].astype(np.float64))
    with pytest.raises(SlantError, match=r"answers left, middle, right, and the data's labels are yes, no"):
        system.load(tmp_path, ("yes", "no"))
    base = Checkpoint("tiny", checkpoint=folder, weights="fp32", tuned=False).load(tmp_path, ("yes", "no"))(texts)
    no = 1 / (1 + np.exp(expected.logits[:, 0] - expected.logits[:, 1]))
    np.testing.assert_allclose(base[:, 1], no, atol=1e-6)


def test_a_system_is_fitted_once_and_an_interrupted_fit_does_not_count(tmp_path):
    class Fitting(Majority):
        fits = 0

        def fit(self, train, folder, cache, progress):
            Fitting.fits += 1
            if Fitting.fits == 1:
                raise KeyboardInterrupt
            return super().fit(train, folder, cache, progress) | {"fits": Fitting.fits}

    train = labelled()
    with pytest.raises(KeyboardInterrupt):
        fitted(Fitting("majority"), train, tmp_path)
    folder = fitted(Fitting("majority"), train, tmp_path)
    assert fitted(Fitting("majority"), train, tmp_path) == folder
    assert systems.facts(folder) == {"fits": 2}
    assert fitted(Fitting("majority"), labelled(seed=1), tmp_path) != folder
    assert fitted(Fitting("majority", key="other"), train, tmp_path) != folder
    counts = Majority("majority").load(folder, train.names)(["x", "y"])
    assert counts.argmax(-1).tolist() == [np.bincount(train.labels).argmax()] * 2


def test_by_group_needs_groups(tmp_path):
    data = labelled()
    alone = Labelled(data.texts, data.labels, data.names)
    with pytest.raises(SlantError, match="name their column with --group"):
        fitted(Linear("x", features=FinalPosition(tmp_path, "fp32"), by_group=True), alone, tmp_path)


def quality_row(system, accuracy, **values):
    interval = [accuracy, accuracy - 0.05, accuracy + 0.05]
    return {
        "kind": "quality",
        "task": "party",
        "data": "d",
        "status": "ok",
        "system": system,
        "costs": system,
        "note": "",
        "fitted": True,
        "training_texts": 1200,
        "texts": 744,
        "groups": 54,
        "labels": ["no", "yes"],
        "accuracy": interval,
        "macro_f1": interval,
        "mae": None,
    } | values


def test_the_table_holds_the_newest_rows_of_the_newest_data():
    rows = [
        quality_row("stale", 0.9, data="old"),
        quality_row("ridge", 0.5),
        quality_row("ridge", 0.6, difference=[-0.1, -0.2, 0.01], against="slant-x"),
        quality_row("ridge", 0.61, training_texts=10),
        quality_row("slant-x", 0.4, fitted=False, training_texts=10),
        quality_row("slant-x", 0.7, fitted=False, note="a note"),
        {"kind": "timing", "system": "ridge", "status": "ok", "texts_per_second": 1.0, "peak_rss": 1e9},
        {"kind": "timing", "system": "ridge", "status": "ok", "texts_per_second": 1234.5, "peak_rss": 2e9},
        {"kind": "timing", "system": "slant-x", "status": "failed: it died", "texts_per_second": None},
        quality_row("lora", 0.0, status="No module named 'peft'"),
    ]
    text = table(rows)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line[0] for line in lines] == ["| slant-x", "| ridge", "| ridge"]
    assert "mean absolute error" not in text
    assert "stale" not in text
    assert lines[0][1:3] == ["", "0.700 (0.650 to 0.750)"]
    assert lines[1][1] == "10"
    assert lines[2][2] == "0.600 (0.550 to 0.650); -0.100 (-0.200 to +0.010)"
    assert lines[2][-2:] == ["1,234", "2.00 GB |"]
    assert "* slant-x: a note." in text
    assert "* Without lora: No module named 'peft'" in text
    assert "resamples of 54 groups" in text


def test_quality_figures_are_by_group_and_only_ordered_labels_have_distances():
    test = Labelled(tuple("abcdef"), np.array([0, 1, 2, 0, 1, 2]), ("0", "1", "2"), np.array(list("xxyyzz")))
    row = compare_baselines.figures(test, np.array([0, 1, 2, 2, 1, 1]))
    assert row["accuracy"][0] == pytest.approx(4 / 6, abs=1e-6)
    assert row["mae"][0] == pytest.approx(0.5)
    assert row["accuracy"][1] == 0.5  # the worst group is half right, whatever its rows
    words = Labelled(test.texts, test.labels, ("x", "y", "z"), test.groups)
    assert compare_baselines.figures(words, test.labels)["mae"] is None
    change = compare_baselines.difference(test, test.labels, np.array([0, 1, 2, 2, 1, 1]))
    assert change[0] == pytest.approx(-2 / 6, abs=1e-6)


def test_one_command_compares_on_ones_own_tables(tmp_path, capsys):
    pytest.importorskip("sklearn")
    passages = [json.loads(line)["text"] for line in (demo.FOLDER / "passages.jsonl").read_text().splitlines()]
    rows = [{"text": text, "label": i % 5, "who": f"w{i % 7}"} for i, text in enumerate(passages)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--train", f"{tmp_path}/train.jsonl", "--test", f"{tmp_path}/test.jsonl", "--group", "who"]
    arguments += ["--cache", f"{tmp_path}/cache", "--results", f"{tmp_path}/results", "--threads", "1"]
    arguments += ["--weights", "fp32", "--model", f"demo={demo.FOLDER}", "--rounds", "1", "--timing-texts", "8"]
    assert main([*arguments, "--systems", "slant-*,demo-state-ridge"]) == 0
    found = read(tmp_path / "results" / "baselines.jsonl")
    by = {(row["kind"], row["system"]): row for row in found}
    names = ("slant-demo-fp32", "demo-state-ridge")
    assert set(by) == {(kind, name) for kind in ("quality", "timing") for name in names}
    assert all(row["status"] == "ok" for row in found)
    assert all(row["texts_per_second"] > 0 for row in found if row["kind"] == "timing")
    ours = Engine.load(demo.FOLDER, weights="fp32", device="cpu").score(passages).label
    right = (ours == np.arange(len(passages)) % 5).mean()
    assert by["quality", "slant-demo-fp32"]["accuracy"][0] == pytest.approx(right, abs=1e-6)
    assert by["quality", "demo-state-ridge"]["against"] == "slant-demo-fp32"
    assert by["quality", "demo-state-ridge"]["alpha"] in ALPHAS
    assert "demo-state-ridge" in (tmp_path / "results" / "baselines.svg").read_text()
    assert "**label**: " in capsys.readouterr().out
    assert main([*arguments, "--label", "nothing"]) == 2
    assert "no column 'nothing'" in capsys.readouterr().out
    assert main([*arguments, "--systems", "none"]) == 2
    with pytest.raises(SystemExit):
        main([*arguments, "--base", f"demo={demo.FOLDER}"])
    assert "are both called demo" in capsys.readouterr().err


def test_a_system_that_cannot_be_loaded_is_a_row_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_baselines, "fitted", lambda system, *_: tmp_path)  # where nothing is
    options = arguments(tmp_path, "--systems", "majority", "--rounds", "1")
    (row,) = compare_baselines.timings([Majority("majority")], labelled(), labelled(), options, Progress(disable=True))
    assert (row["kind"], row["system"], row["texts_per_second"]) == ("timing", "majority", None)
    assert row["status"].startswith("failed: FileNotFoundError")


def test_a_message_is_not_broken_at_the_terminals_width(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,x\nb,y\n")
    files = ["--train", f"{tmp_path}/train.csv", "--test", f"{tmp_path}/test.csv"]
    assert main([*files, "--label", "nothing"]) == 2
    assert "has no column 'nothing' for the labels; its columns are: text, label." in capsys.readouterr().out


def arguments(folder, *more):
    files = ["--train", f"{folder}/train.jsonl", "--test", f"{folder}/test.jsonl"]
    return compare_baselines.arguments([*files, "--cache", f"{folder}/cache", "--threads", "1", *more])


def test_what_is_missing_is_said_with_what_to_do():
    assert reason(ModelAbsent("install it")) == reason(SlantError("install it")) == "install it"
    assert (
        reason(ImportError("No module named 'peft'")) == "No module named 'peft'; run pip install 'slant[baselines]'."
    )
