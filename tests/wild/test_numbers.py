"""Numbers that are none: in a weight they are named at load, in an answer they are the fault of the model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3_5ForCausalLM

import classifier
import overflow
import tiny
from slant import Engine
from slant.artifact import MANIFEST
from slant.artifact.manifest import FileInfo, Manifest
from slant.cli import app as cli
from slant.demo import FOLDER
from slant.errors import CheckpointError
from slant.evaluation.reference import Reference, last_logits
from slant.files import sha256
from slant.prompt.prompt import Prompt
from slant.quantize.job import quantize_checkpoint
from slant.scores import Score, require_an_answer
from slant.tensor_files import TensorInfo, finite

TEXTS = [json.loads(line)["text"] for line in (FOLDER / "passages.jsonl").read_text(encoding="utf-8").splitlines()][:8]
CPU = {"weights": "fp32", "device": "cpu"}
TENSORS = {
    "model.embed_tokens.weight": [777, 3],
    "lm_head.weight": [17, 5],  # the row of an answer
    "model.norm.weight": [9],
    "model.layers.0.linear_attn.A_log": [1],
    "model.layers.1.linear_attn.dt_bias": [0],
    "model.layers.1.linear_attn.conv1d.weight": [2, 0, 1],
    "model.layers.2.linear_attn.in_proj_qkv.weight": [4, 4],
    "model.layers.3.self_attn.q_norm.weight": [7],
    "model.layers.3.self_attn.o_proj.weight": [0, 127],
    "model.layers.2.mlp.down_proj.weight": [100, 1],
}


def put(name: str, where: list[int], value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][tuple(where)] = value

    return change


# ---- weights


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, name: str, value: float) -> None:
    folder = overflow.changed(tmp_path / "model", put(name, TENSORS[name], value))
    with pytest.raises(CheckpointError) as refused:
        Engine.load(folder, **CPU)
    assert "1 of the " in str(refused.value)
    assert f"values of {name} in {folder / 'model.safetensors'} are NaN or infinite" in str(refused.value)
    assert f"the first at {TENSORS[name]}; download the checkpoint again" in str(refused.value)


@pytest.mark.parametrize("weights", ["bf16", "hqq4", "int8", "w4a8"])
def test_for_every_kind_of_weights(tmp_path: Path, weights: str) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    folder = overflow.changed(tmp_path / "model", put(name, [100, 1], torch.nan))
    try:
        Engine.load(FOLDER, weights=weights, device="cpu")
    except Exception as error:  # hqq needs the package
        pytest.skip(str(error))
    with pytest.raises(CheckpointError, match=r"mlp\.down_proj\.weight .*NaN or infinite"):
        Engine.load(folder, weights=weights, device="cpu")
    with pytest.raises(CheckpointError, match=r"mlp\.down_proj\.weight .*NaN or infinite"):
        Engine.offloaded(folder, weights=weights, device="cpu").score(TEXTS[:1])


def test_a_row_of_the_head_that_is_no_answer_may_be_anything(tmp_path: Path) -> None:
    folder = overflow.changed(tmp_path / "model", put("lm_head.weight", [3000, 1], torch.nan))
    assert Engine.load(folder, **CPU).score(TEXTS[0]) == Engine.load(FOLDER, **CPU).score(TEXTS[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_check_is_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    """Sums of finite values may overflow, and one value that is none may stand anywhere."""
    largest = torch.finfo(dtype).max
    for fine in (
        torch.full((3, 4), largest),
        torch.full((3, 4), -largest),
        torch.zeros(0, 4),
        torch.ones(1, 1) * 1e-45,
    ):
        info = TensorInfo(tmp_path, "x", tuple(fine.shape), "F32")
        assert finite(fine.to(dtype), info).dtype == dtype
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows, columns = (int(torch.randint(1, 70, (1,), generator=generator)) for _ in range(2))
        wrong = torch.randn(rows, columns, generator=generator).to(dtype)
        where = [int(torch.randint(size, (1,), generator=generator)) for size in (rows, columns)]
        wrong[tuple(where)] = (torch.nan, torch.inf, -torch.inf)[rows % 3]
        wrong[0, 0] += largest  # which hides nothing
        first = [0, 0] if not wrong[0, 0].isfinite() else where
        with pytest.raises(CheckpointError) as refused:
            finite(wrong, TensorInfo(tmp_path, "x", (rows, columns), "F32"))
        assert f"the first at {first};" in str(refused.value)


def test_a_value_beyond_bf16_is_named_where_bf16_is_computed(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.down_proj.weight"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].float()
        tensors[name][5, 6] = 3.4e38

    folder = overflow.changed(tmp_path / "model", change)
    with pytest.raises(CheckpointError) as refused:
        Engine.load(folder, weights="bf16", device="cpu")
    assert f"{name} in {folder / 'model.safetensors'} are too large for bfloat16, the first at [5, 6]" in str(
        refused.value
    )
    assert "load it with the weights fp32" in str(refused.value)
    assert Engine.load(folder, **CPU)


def test_subnormal_weights_are_numbers(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.2.mlp.down_proj.weight"][3] = 1e-40
        tensors["model.norm.weight"][4] = 1e-45

    folder = overflow.changed(tmp_path / "model", change)
    theirs = Reference.load(folder).score(TEXTS[:2])
    np.testing.assert_allclose(Engine.load(folder, **CPU).score(TEXTS[:2]).logits, theirs.logits, atol=1e-4)


@pytest.mark.parametrize(("A_log", "dt_bias"), [(89.0, 0.0), (400.0, -200.0), (2.0, 3e38)])
def test_gates_that_overflow_are_named(tmp_path: Path, A_log: float, dt_bias: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.linear_attn.A_log"][1] = A_log
        tensors["model.layers.1.linear_attn.dt_bias"][1] = dt_bias

    folder = overflow.changed(tmp_path / "model", change)
    with pytest.raises(CheckpointError, match=r"layers\.1\.linear_attn\.A_log .* infinite as exp\(A_log\) softplus"):
        Engine.load(folder, **CPU)


def test_large_gates_are_scored_as_by_transformers(tmp_path: Path) -> None:
    folder = overflow.changed(tmp_path / "model", put("model.layers.1.linear_attn.A_log", [1], 60.0))
    theirs = Reference.load(folder).score(TEXTS[:2])
    np.testing.assert_allclose(Engine.load(folder, **CPU).score(TEXTS[:2]).logits, theirs.logits, atol=1e-4)


# ---- artifacts


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hqq")
    return quantize_checkpoint(FOLDER, tmp_path_factory.mktemp("made") / "artifact", tiny.recipe(4))


@pytest.mark.parametrize("part", ["scales", "zeros", ""])
def test_an_artifact_with_a_value_that_is_no_number_is_named(artifact: Path, tmp_path: Path, part: str) -> None:
    """With hashes that fit: it was written so."""
    folder = shutil.copytree(artifact, tmp_path / "artifact")
    shard = folder / "layers-01.safetensors"
    key = f"layers.1.mlp.up_proj.weight.{part}" if part else "layers.1.linear_attn.dt_bias"
    tensors = load_file(shard)
    tensors[key].view(-1)[1] = torch.inf
    save_file(tensors, shard)
    manifest = Manifest.read(folder)
    files = dict(manifest.files) | {shard.name: FileInfo(shard.stat().st_size, sha256(shard))}
    Manifest(manifest.recipe, manifest.made, manifest.source, manifest.answers, files).write(folder)
    with pytest.raises(CheckpointError, match=rf"{key} in .*layers-01\.safetensors are NaN or infinite"):
        Engine.load(folder, device="cpu")
    assert (folder / MANIFEST).exists()


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_quantizing_names_the_tensor_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    pytest.importorskip("hqq")
    folder = overflow.changed(tmp_path / "model", put(name, TENSORS[name], torch.nan))
    with pytest.raises(CheckpointError, match=f"{name} in .* NaN or infinite"):
        quantize_checkpoint(folder, tmp_path / "artifact", tiny.recipe(4))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, r"down_proj\.lora_B\.weight in .*adapter_model\.safetensors are NaN or infinite"),
        (1e30, r"down_proj\.lora_B\.weight times .*lora_A\.weight, added to the base, in .* are NaN or infinite"),
    ],
)
def test_an_adapter_with_a_value_that_is_no_number_is_named(tmp_path: Path, value: float, message: str) -> None:
    base, folder = classifier.write(tmp_path / "base"), tmp_path / "adapter"
    folder.mkdir()
    module = "layers.0.mlp.down_proj"
    rows, columns = load_file(base / "model.safetensors")[f"model.{module}.weight"].shape
    a, b = torch.full((1, columns), 1e30), torch.zeros(rows, 1)
    b[2] = value
    factors = {f"base_model.model.model.{module}.lora_{name}.weight": factor for name, factor in (("A", a), ("B", b))}
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    with pytest.raises(CheckpointError, match=message):
        Engine.load(folder, **CPU)


# ---- activations


def test_activations_beyond_f16(tmp_path: Path) -> None:
    """F16 is a way to store weights, and nothing is computed in it: transformers in float32 is the truth.

    As in QwenLM/Qwen3#761, deepseek-ai/DeepSeek-V2#93.
    """
    folder = classifier.write(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if "down_proj" in name or "o_proj" in name or "out_proj" in name:
            tensors[name] *= 1e5  # at most 47,000
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")
    prompt = Prompt.load(folder)
    ids = [row.ids.tolist() for row in prompt.encode(classifier.TEXTS)]
    model = Qwen3_5ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hidden = model(torch.tensor([ids[1]]), output_hidden_states=True).hidden_states
    assert max(float(state.detach().abs().max()) for state in hidden[:-1]) > 1.5 * 65504
    theirs = torch.cat([last_logits(model, [one], prompt.answer_ids) for one in ids])
    scores = Engine.load(folder, **CPU).score(classifier.TEXTS)
    np.testing.assert_allclose(scores.logits, theirs, atol=1e-3)
    rounded = Engine.load(folder, weights="bf16", device="cpu").score(classifier.TEXTS)
    assert np.isfinite(rounded.logits).all()


# ---- answers


@pytest.fixture(scope="module")
def at_one_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers the first of the texts with NaN, and the others."""
    ids = [set(row.ids.tolist()) for row in Prompt.load(FOLDER).encode(TEXTS)]
    return overflow.at_token(tmp_path_factory.mktemp("one") / "model", min(ids[0] - set.union(*ids[1:])))


@pytest.fixture(scope="module")
def at_all_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompt = Prompt.load(FOLDER)
    return overflow.at_token(tmp_path_factory.mktemp("all") / "model", prompt.prefix_ids[3])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "in.jsonl"
    rows = [{"text": text, "gold": i % 5} for i, text in enumerate(["", *TEXTS])]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def slant(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command: its exit code, and what it said on stderr, in one line."""

    def run(*arguments: object) -> tuple[int, str]:
        code = cli.run([str(argument) for argument in arguments])
        return code, " ".join(capfd.readouterr().err.split())

    return run


def test_one_bad_text_among_good_ones_is_an_error_of_its_row(
    slant, at_one_text: Path, table: Path, tmp_path: Path
) -> None:
    scores = Engine.load(at_one_text, **CPU).score(["", *TEXTS])
    assert scores.error[:3] == [
        "The text is empty.",
        "the model answered with NaN or infinity; check the checkpoint.",
        None,
    ]
    assert [score.model_failed for score in scores] == [False, True, *[False] * (len(TEXTS) - 1)]
    assert scores.ok.sum() == len(TEXTS) - 1
    for window in (1024, 5):
        out = tmp_path / f"{window}.jsonl"
        code, _ = slant(
            "score", table, "--model", at_one_text, "--output", out, "--weights", "fp32", "--window", window
        )
        assert code == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["error"] is None for row in rows] == [False, False, *[True] * (len(TEXTS) - 1)]


@pytest.mark.parametrize("window", [1024, 3])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_model_that_answers_nothing_ends_the_job(
    slant, at_all_texts: Path, table: Path, tmp_path: Path, ending: str, window: int
) -> None:
    out = tmp_path / f"out.{ending}"
    code, said = slant(
        "score", table, "--model", at_all_texts, "--output", out, "--weights", "fp32", "--window", window
    )
    assert code == 2
    texts = min(window, len(TEXTS) + 1) - 1  # the empty one was not asked about
    assert f"the model answered every text so far ({texts}) with NaN or infinity" in said
    assert "load it with the weights fp32" in said
    assert not list(tmp_path.iterdir())


def test_a_first_window_of_one_bad_text_ends_the_job_too(slant, at_one_text: Path, table: Path, tmp_path: Path) -> None:
    """Nothing was answered yet, so nothing tells the model's fault from the text's; a larger window does."""
    out = tmp_path / "out.csv"
    code, said = slant("score", table, "--model", at_one_text, "--output", out, "--weights", "fp32", "--window", 2)
    assert code == 2
    assert "every text so far (1)" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "TABLE", "--labels-column", "gold", "--model", "MODEL", "--weights", "fp32", "--json", "OUT"),
        ("drift", "MODEL", "--texts", "TABLE", "--reference-model", "demo", "--weights", "fp32", "--json", "OUT"),
        ("drift", "demo", "--texts", "TABLE", "--reference-model", "MODEL", "--weights", "fp32", "--json", "OUT"),
        ("bench", "MODEL", "--weights", "fp32", "--seconds", "0.01", "--texts", "1", "--output", "OUT"),
    ],
    ids=lambda command: f"{command[0]} {command[1]}",
)
def test_in_every_command(slant, at_all_texts: Path, table: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    known = {"TABLE": table, "MODEL": at_all_texts, "OUT": tmp_path / "out.json"}
    code, said = slant(*(known.get(word, word) for word in command))
    assert code == 2, said
    assert "the model answered every text so far" in said
    assert not list(tmp_path.iterdir())


def test_the_demo_says_so(slant, at_all_texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slant.cli.demo.FOLDER", at_all_texts)
    code, said = slant("demo")
    assert code == 2
    assert "the bundled checkpoint does not work here: the model answered with NaN or infinity" in said


def test_one_text_alone_raises(at_one_text: Path, at_all_texts: Path) -> None:
    with pytest.raises(ValueError, match="the model answered with NaN or infinity"):
        Engine.load(at_one_text, **CPU).score(TEXTS[0])
    every = Engine.load(at_all_texts, **CPU).score(TEXTS[:2])  # a list never raises for a row
    assert [score.model_failed for score in every] == [True, True]


def test_the_reference_tells_it_too(at_one_text: Path) -> None:
    scores = Reference.load(at_one_text).score(TEXTS[:2])
    assert [score.model_failed for score in scores] == [True, False]
    assert np.isnan(scores.probabilities[0]).all()


def test_errors_of_texts_alone_end_nothing() -> None:
    assert require_an_answer([]) is False
    assert (
        require_an_answer([Score.failed("the model answered with NaN or infinity; check the checkpoint.", 5)]) is False
    )
    with pytest.raises(CheckpointError, match=r"so far \(1\)"):
        require_an_answer([Score.failed("The text is empty.", 5), Score.not_finite(5)])
