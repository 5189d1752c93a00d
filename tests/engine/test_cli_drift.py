"""The command slant drift: its exit codes, and damage that it must see."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import overflow
from slant.artifact import certificate as certificates
from slant.cli import app as cli
from slant.demo import FOLDER, passages
from slant.evaluation.drift.measure import measure
from slant.options import LoadOptions
from slant.prompt.prompt import Prompt
from slant.tables.labelled import LabelledTexts

TEXTS = [passage["text"] for passage in passages()][::6]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The demo checkpoint with noise on its matrices."""
    folder = shutil.copytree(FOLDER, tmp_path_factory.mktemp("damaged") / "model")
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "embed" not in name:
            noise = 2 * torch.randn(tensor.shape, generator=generator) * tensor.float().std()
            tensors[name] = (tensor.float() + noise).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"text": text, "gold": i % 5} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"text": "a \\ud800 b"}\n{bad\n')
    return path


@pytest.fixture
def slant(capfd):
    def run(*arguments):
        code = cli.run(["drift", *map(str, arguments), "--device", "cpu"])
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return run


def test_within_and_beyond(slant, table, damaged, tmp_path):
    """bf16 against fp32 is within what the damaged copy is far beyond: the check can fail."""
    budgets = ["--max-flip-rate", 0.1, "--max-kl", 0.01, "--max-p99", 0.1, "--max-expected", 0.1]
    outputs = ["--json", tmp_path / "out.json", "--html", tmp_path / "out.html"]
    against = ["--reference", "fp32", "--texts", table, "--labels-column", "gold"]
    code, out, err = slant("demo", "--weights", "bf16", *against, *budgets)
    assert (code, err) == (0, "")
    assert "Within the budgets" in out
    code, out, err = slant(damaged, "--weights", "fp32", "--reference-model", "demo", *against, *budgets, *outputs)
    assert (code, err) == (1, "")
    assert "Beyond the budgets: max_flip_rate" in out
    plain = json.loads((tmp_path / "out.json").read_text())
    assert {e["budget"] for e in plain["exceeded"]} >= {"max_kl", "max_p99_delta"}
    certificate = certificates.parse(plain["certificate"])
    assert certificate.drift.rows == len(TEXTS) + 2
    assert [failure.row for failure in certificate.drift.failures] == [len(TEXTS), len(TEXTS) + 1]
    assert "not JSON" in certificate.drift.failures[1].ours
    assert certificate.drift.overall.gold.rows == len(TEXTS)
    assert "Beyond" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.json", "out.html"}


def test_a_model_that_answers_nothing_more_is_no_success(slant, table, damaged, tmp_path):
    """An overflow at one token is an error of the texts with that token, and of no other figure."""
    ids = [set(row.ids.tolist()) for row in Prompt.load(FOLDER).encode(TEXTS)]
    (token, *_) = sorted(ids[0] - set.union(*ids[1:]))
    folder = overflow.at_token(tmp_path / "model", token)
    arguments = ["--reference-model", "demo", "--texts", table, "--weights", "fp32", "--reference", "fp32"]
    code, out, _ = slant(folder, *arguments)
    assert code == 1
    assert "max_lost is 0, found 1" in out
    assert slant(folder, *arguments, "--max-lost", 1)[0] == 0


def test_the_three_ways_to_the_reference():
    texts = LabelledTexts(tuple(TEXTS[:6]), (None,) * 6, None)
    found = {}
    for method in ("layerwise", "resident", "transformers"):
        options = LoadOptions(weights="fp32", device="cpu")
        found[method] = measure(FOLDER, texts, options, method=method, reference="fp32", date="2026-01-31")
    for method in ("layerwise", "resident"):
        assert found[method].drift.overall.figures.delta.maximum == 0
        assert found[method].certificate.versions.transformers is None
    assert 0 < found["transformers"].drift.overall.figures.delta.maximum < 1e-4
    assert found["transformers"].certificate.versions.transformers
    assert found["layerwise"].certificate.method == "layerwise"


def test_the_demo_needs_no_texts(slant):
    code, out, _ = slant("demo", "--weights", "fp32", "--reference", "fp32", "--max-kl", 0)
    assert code == 0
    assert f"{len(passages())} gold labels" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "--texts"),
        (["nowhere", "--texts", "IN"], "nowhere"),
        (["demo", "--texts", "missing.csv"], "missing.csv"),
        (["demo", "--texts", "IN", "--labels-column", "leaning"], "leaning"),
        (["demo", "--texts", "IN", "--labels-column", "text"], "row 1"),
        (["demo", "--texts", "IN", "--text-column", "body"], "body"),
        (["demo", "--texts", "IN", "--weights", "int7"], "int7"),
        (["demo", "--texts", "IN", "--max-kl", "-1"], "max_kl"),
        (["demo", "--texts", "IN", "--json", "no/folder/out.json"], "no/folder"),
        (["demo", "--texts", "IN", "--html", "IN"], "is the input"),
        (["demo", "--texts", "IN", "--reference", "int8"], "int8"),
        (["ARTIFACT", "--texts", "IN"], "--reference-model"),
    ],
)
def test_a_problem_is_one_line_and_code_2(slant, table, tmp_path, arguments, word):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "artifact.json").write_text("{}")
    named = {"IN": str(table), "ARTIFACT": str(tmp_path / "artifact")}
    code, out, err = slant(*(named.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err


def test_another_tokenizer_is_refused(slant, table, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-500]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, err = slant(folder, "--reference-model", "demo", "--texts", table)
    assert code == 2
    assert "tokenizers are not the same" in err
