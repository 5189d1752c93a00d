"""What ``slant inspect`` tells of a checkpoint, without reading its weights."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console

import tiny
from slant.bench import predict
from slant.cli.inspect_report import report
from slant.demo import FOLDER
from slant.errors import SlantError
from slant.model.checkpoint import Checkpoint
from slant.options import LoadOptions
from slant.runtime.choice import speed
from slant.runtime.classifier import resolve
from slant.runtime.memory import human


def printed(model, **options):
    console = Console(file=io.StringIO(), width=120)
    console.print(report(model, LoadOptions(**options)))
    return console.file.getvalue()


def test_architecture_tensors_answers_and_memory(monkeypatch):
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: pytest.fail("weights were read"))
    text = printed(FOLDER)
    assert "3 Gated DeltaNet, 1 full attention" in text
    assert "head its own" in text
    assert "1,908,024" in text
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert ["0", "'0'", "15", "far left"] in cells
    assert ["4", "'4'", "19", "far right"] in cells
    config = Checkpoint.open(FOLDER).config
    resident = {tuple(row[:2]): row[3] for row in cells if row[2:3] == ["resident"] and len(row) == 7}
    assert resident.pop(("cpu", "int8")) == "1.95 MB", "2.78 in bf16, less a byte a weight, and 4 more a row"
    assert resident.pop(("cuda", "fp8")) == "1.95 MB", "4 more a row"
    sizes = {("cpu", "bf16"): 2, ("cpu", "fp32"): 4, ("cuda", "bf16"): 2}
    assert resident == {key: human(tiny.weight_bytes(config, size, 5)) for key, size in sizes.items()}
    names = {row[2] for row in cells if row[0] == "cuda"}
    assert names == {"resident", "quantized", "quantized, host embedding", "offload"}


def test_alternatives_on_this_machine():
    text = printed(FOLDER, device="cpu", max_tokens=256)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    rows = {row[0]: row[1:] for row in cells if len(row) == 5 and row[1].startswith("auto")}
    plain = next(name for name in rows if name.startswith("auto: "))
    assert set(rows) == {plain, "int8", "hqq8", "w4a8", "hqq4"}
    assert [rows[name][0] for name in (plain, "int8", "w4a8")] == ["auto", "auto-8bit", "auto-4bit"]
    speeds = {name: float(row[3].replace(",", "")) for name, row in rows.items()}
    assert speeds["int8"] / speeds[plain] == pytest.approx(speed("int8", torch.device("cpu")), rel=0.01)
    assert list(speeds.values()) == sorted(speeds.values(), reverse=True)
    least = printed(FOLDER, device="cpu", max_tokens=256, memory="1MB")
    assert least.count("does not fit") == 5


def test_predicted_speed_is_of_the_whole_model(monkeypatch):
    """If all blocks are timed, in a second, that is the prediction; fewer blocks are a part of the model."""
    monkeypatch.setattr(predict.time, "perf_counter", iter([0.0, 1.0] * 6).__next__)
    config = Checkpoint.open(FOLDER).config
    options = resolve(Checkpoint.open(FOLDER), LoadOptions(device="cpu", max_tokens=256))
    part = predict.tokens_per_second(config, options)
    monkeypatch.setattr(predict, "reduced", lambda config: (config, None))
    assert part < predict.tokens_per_second(config, options) == predict.ROWS * predict.TOKENS


def test_an_unusual_checkpoint_is_noted(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint("grouped"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(SlantError, match="tokenizer"):
        report(folder, LoadOptions())
    assert any("lm_head" in note for note in Checkpoint.open(folder).notes)
    assert Checkpoint.open(folder).config.vocab_size == tiny.VOCABULARY


def test_other_labels(tmp_path):
    text = printed(FOLDER, labels={"1": "yes", "3": "no"}, max_tokens=128)
    assert "'3'" in text
    assert "no" in text
    assert "or one text of 128 tokens" in " ".join(text.split())


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 B"), (1234, "1.23 kB"), (7.1e9, "7.1 GB"), (999, "999 B"), (2.5e12, "2.5e+03 GB")]
)
def test_human(size, text):
    assert human(size) == text
