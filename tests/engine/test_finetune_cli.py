"""The command ``slant finetune``: on the bundled checkpoint, and what it says of wrong input."""

import json
import sys

import numpy as np
import pytest
import toy

from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.engine import Engine
from slant.evaluation.reference import Reference
from slant.training import run

TEXTS = [passage["text"] for passage in passages()]


@pytest.fixture
def table(tmp_path):
    """The bundled passages, short, with their leanings."""
    lines = [(one["text"][:80], one["leaning"]) for one in passages()]
    return str(toy.write(tmp_path / "a.csv", lines).path)


def slant(capsys, *words):
    code = cli.run(["finetune", *map(str, words)])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def test_the_demo_finetuned_is_scored_like_transformers(capsys, tmp_path, table):
    """The tokenizer of the merged folder included."""
    steps = ("--epochs", 1, "--accumulation", 1, "--warmup-steps", 1, "--learning-rate", 1e-3)
    code, out, err = slant(capsys, "demo", "--data", table, "--output", tmp_path / "out", *steps, "--max-tokens", 120)
    assert code == 0, err
    assert "Trained on 51 texts in 7 steps" in out
    assert "Rows dropped: none. Texts truncated: 0." in out
    assert "macro-F1" in out
    assert "gold ↓ answer →" in out
    record = json.loads((tmp_path / "out" / "training.json").read_bytes())
    assert record["recipe"]["learning_rate"] == 1e-3
    assert record["recipe"]["max_tokens"] == 120
    truth = Reference.load(tmp_path / "out", weights="fp32").score(TEXTS[::4])
    scores = Engine.load(tmp_path / "out", weights="fp32", device="cpu").score(TEXTS[::4])
    np.testing.assert_allclose(scores.logits, truth.logits, atol=1e-4, rtol=0)
    assert scores.tokens.tolist() == truth.tokens.tolist()
    before = Engine.load(FOLDER, weights="fp32", device="cpu").score(TEXTS[::4])
    assert np.abs(before.logits - scores.logits).max() > 0.01


def test_each_table_has_columns_of_its_own(capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "finetune", lambda base, tables, *_, **__: seen.extend(tables) or sys.exit(0))
    words = ("demo", "--data", "a.csv", "--data", "b.csv", "--output", tmp_path / "out", "--text-column", "body")
    with pytest.raises(SystemExit):
        slant(capsys, *words, "--labels-column", "x", "--labels-column", "y")
    assert [(t.path, t.text_column, t.labels_column) for t in seen] == [("a.csv", "body", "x"), ("b.csv", "body", "y")]
    code, _, err = slant(capsys, *words, "--text-column", "b", "--text-column", "c")
    assert code == 2
    assert "--text-column is given 3 times for 2 tables" in err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("body,label\nx,1\n", (), "has no column 'text'; its columns are: body, label"),
        ("text,label\nx,7\n", (), "a.csv, row 1: the label '7' is none of"),
        ("text,label\nx,left\n", (), "the label 'left' is none of far left, lean left"),
        ("text,label\nx,7\n", ("--skip-invalid",), "no row is left to train on (rows dropped: unknown label: 1)"),
        ("text,label\nx,1\ny,1\n", (), "every row has the label lean left"),
        ("text,label\nx,1\ny,2\nz,2\n", (), "the label lean left has 1 row"),
        ("text,label\n", (), "no row is left to train on"),
        ("", (), "a.csv is empty"),
        ("text,label\nw,1\nx,1\ny,2\nz,2\n", (), "takes 2 steps, and the warm-up alone 20"),
        ("text,label\nw,1\nx,1\n", ("--max-tokens", "99999"), "max_tokens is 99999, but the model was built for"),
        ("text,label\nw,1\nx,1\n", ("--rank", "0"), "rank is 0"),
        ("text,label\nw,1\nx,1\n", ("--device", "cuda:1"), "device"),
    ],
)
def test_wrong_input_is_one_clear_sentence(capsys, tmp_path, content, words, message):
    (tmp_path / "a.csv").write_text(content)
    limit = () if "--max-tokens" in words else ("--max-tokens", "200")
    code, _, err = slant(capsys, "demo", "--data", tmp_path / "a.csv", "--output", tmp_path / "out", *limit, *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"], "nothing is left behind"


@pytest.mark.parametrize("package", ["peft", "accelerate"])
def test_without_the_extra_it_says_what_to_install(capsys, tmp_path, monkeypatch, table, package):
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == package else object())
    code, _, err = slant(capsys, "demo", "--data", table, "--output", tmp_path / "out")
    assert code == 2
    assert err == f"slant: finetuning needs {package}: pip install 'slant[train]'.\n"
