"""config.json with values of another kind or out of range: the same model as transformers', or the field is named."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import mutated
from transformers import Qwen3_5Config, Qwen3_5TextConfig

import classifier
import tiny
from slant import Engine
from slant.errors import CheckpointError, SlantError
from slant.evaluation.reference import last_logits
from slant.model.qwen3_5.config_file import Multimodal, Text
from slant.model.registry import parse_config, read_config
from slant.prompt.prompt import Prompt

TEXTS = classifier.TEXTS[:2]
# Nothing in the text model's arithmetic follows from these: transformers is asked without them.
NOT_READ = ("vision_config", "dtype", "torch_dtype", "attn_implementation")
SHAPE = {"qwen3_5_text": "grouped", "qwen3_5": tiny.MULTIMODAL}


@cache
def checkpoint(shape: str) -> Path:
    """A tiny classifier of this shape, written once a process."""
    return classifier.write(Path(tempfile.mkdtemp(prefix="slant-config-")), shape)


def config(shape: str = "grouped") -> dict[str, Any]:
    """A new copy of the decoded config.json of ``checkpoint(shape)``."""
    raw: dict[str, Any] = json.loads((checkpoint(shape) / "config.json").read_bytes())
    return raw


def folder_with(content: bytes, shape: str, parent: Path) -> Path:
    """The checkpoint of this shape with another config.json."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    for path in checkpoint(shape).iterdir():
        if path.name != "config.json":
            os.link(path, folder / path.name)
    (folder / "config.json").write_bytes(content)
    return folder


def ours(folder: Path) -> torch.Tensor:
    """fp32 logits of ``TEXTS``; raises SlantError."""
    return torch.from_numpy(Engine.load(folder, device="cpu", weights="fp32").score(TEXTS).logits)


def theirs(folder: Path) -> list[torch.Tensor | str]:
    """The same by transformers, as the class that ``architectures`` names and as AutoModelForCausalLM, or why not.

    A checkpoint of which it fills in a tensor at random counts as not loaded.
    """
    raw = json.loads((folder / "config.json").read_bytes())
    names = raw.get("architectures") if raw.get("model_type") == "qwen3_5" else None
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        kinds = [*(names or [])[:1], "AutoModelForCausalLM"]
        return [_by(getattr(transformers, kind), folder) for kind in kinds]
    finally:
        transformers.logging.set_verbosity(verbosity)


def _by(kind: Any, folder: Path) -> torch.Tensor | str:
    try:
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            return f"{info}"
        positions = model.config.get_text_config().max_position_embeddings
        prompt = Prompt.load(folder, max_tokens=min(8192, positions))
        sequences = [row.ids.tolist() for row in prompt.encode(TEXTS)]
        return last_logits(model.eval(), sequences, prompt.answer_ids)
    except Exception as error:  # whatever it raises for a config that it does not take
        return f"{type(error).__name__}: {error}"


def check_config(raw: Any, shape: str = "grouped") -> bool:
    """Assert that a decoded config.json over the weights of ``shape`` gives transformers' logits, or an error that
    names a field of it or a tensor. Returns whether it loaded."""
    content = json.dumps(raw).encode(errors="surrogatepass")
    with tempfile.TemporaryDirectory() as parent:
        folder = folder_with(content, shape, Path(parent))
        try:
            logits = ours(folder)
        except SlantError as error:
            if not names_a_field(str(error), raw):
                raise AssertionError(f"no field is named: {error}") from error
            return False
        same = {key: value for key, value in raw.items() if key not in NOT_READ}
        same |= {key: value for key, value in config(shape).items() if key == "vision_config"}
        if isinstance(text := same.get("text_config"), dict):
            same["text_config"] = {key: value for key, value in text.items() if key not in NOT_READ}
        found = theirs(folder_with(json.dumps(same).encode(errors="surrogatepass"), shape, Path(parent)))
        references = [logits for logits in found if isinstance(logits, torch.Tensor)]
        if not references:
            raise AssertionError(f"loaded, and transformers says {str(found)[:500]}\n{content[:3000]!r}")
        for reference in references:
            torch.testing.assert_close(logits, reference, atol=1e-4, rtol=0, msg=lambda text: f"{text}\n{content!r}")
    return True


def names_a_field(message: str, raw: Any) -> bool:
    """Whether an error is one line that names config.json and a field of it, or a tensor."""
    names = {"model_type", "architectures", *fields(raw), *fields(config()), *fields(config(tiny.MULTIMODAL))}
    named = "config.json" in message and (not isinstance(raw, dict) or any(name and name in message for name in names))
    # A max_position_embeddings that no prompt fits into bounds max_tokens.
    known = named or " tensor " in message or ".weight" in message or "max_tokens" in message
    return "\n" not in message and len(message) < 1000 and known


def fields(raw: Any) -> set[str]:
    parts = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return set(raw if isinstance(raw, dict) else ()).union(*map(fields, parts))


L, F = "linear_attention", "full_attention"
ROPE = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
# Where tools put the same settings, and what they leave out or add: to be computed as transformers does. Others took
# the default of rope_theta where it stands in rope_parameters (deepspeedai/DeepSpeed#8345, THUDM/slime#1720).
ACCEPTED: list[dict[str, Any]] = [
    {},
    {"architectures": None},
    {"architectures": []},
    {"architectures": ["Qwen3_5ForConditionalGeneration"]},
    {"architectures": ["Qwen3_5ForCausalLM", "Other"]},
    {"layer_types": None},
    {"layer_types": None, "full_attention_interval": 4},
    {"full_attention_interval": 0},  # needless: the layers are named
    {"full_attention_interval": "four"},
    {"layer_types": ["mamba", "mamba", "mamba", "attention"]},
    {"rope_parameters": ROPE},
    {"rope_parameters": ROPE | {"rope_theta": 1000000}},
    {"rope_parameters": ROPE | {"mrope_section": [1, 1, 9], "mrope_interleaved": False}},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 1e6, "partial_rotary_factor": 0.5},
    {"rope_parameters": None, "rope_theta": 1e6},
    {"rope_parameters": {}, "partial_rotary_factor": 0.5},
    {"rope_parameters": ROPE, "rope_theta": 5.0, "partial_rotary_factor": 1.0},
    {"rope_scaling": {"type": "default", "rope_theta": 1e6}},
    {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 1, 1]}, "rope_theta": 1e6},
    {"rope_scaling": {"factor": 2.0}, "rope_parameters": ROPE},  # the first counts, as it holds something
    {"rope_scaling": {}, "rope_parameters": ROPE},
    {"rope_scaling": None, "rope_parameters": ROPE},
    {"rms_norm_eps": 1e-2},
    {"rms_norm_eps": 0.9},
    {"eos_token_id": [1, 2], "pad_token_id": -1, "bos_token_id": 10**9},
    {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},  # no layer of this model has a window
    {"mamba_ssm_dtype": "bfloat16", "attn_output_gate": True, "mlp_only_layers": [0], "num_experts": 8},
    {"initializer_range": float("nan"), "attention_dropout": 1, "output_hidden_states": None},
    {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "num_labels": 3},
    {"torch_dtype": "float16", "dtype": "nonsense", "transformers_version": 5},
    {"quantization_config": None, "per_layer_config": None, "vision_config": 5, "Hidden_Size": "x"},
]
# fields, and values that they must not have
REFUSED: list[tuple[str, list[Any]]] = [
    ("hidden_size", [None, True, "48", 48.0, 0, -48, 10**12, 10**400, [48], {"value": 48}, float("nan")]),
    ("num_hidden_layers", [None, "4", 4.0, 0, -1, 10**12, 3, 5, True]),
    ("head_dim", [None, 32.0, "32", 0, -32]),
    ("num_key_value_heads", [None, 0, 3]),
    ("linear_num_key_heads", [0, 3, None]),
    ("rms_norm_eps", [None, "1e-6", 0, 0.0, 1e-320, -1e-6, 1, float("nan"), float("inf"), {"__float__": "NaN"}, True]),
    ("max_position_embeddings", [None, "32768", 0, -1, 32768.0]),
    ("tie_word_embeddings", ["false", "true", 0, 1, None, [], {}]),
    ("layer_types", [[], [F], [L, L, L, "x"], [L, L, L, None], "full_attention", {"0": L}, 4, [L, L, L, [F]]]),
    ("layer_types", [[L, L, L, "sliding_attention"], [L, L, L, "chunked_attention"], [L, L, L, "conv"]]),
    ("rope_parameters", [[], [1], "default", 4, {F: {"rope_theta": 1e6}, L: {"rope_theta": 1e4}}, {F: None}]),
    ("rope_parameters", [{F: {"rope_theta": 1e6}, "rope_type": "default", "rope_theta": 1e4}]),
    *(("rope_parameters.rope_theta", [{"rope_theta": bad}]) for bad in (None, "1e4", 0, -1.0, True, float("inf"))),
    *(("rope_parameters.rope_type", [{"rope_type": bad}]) for bad in ("mrope", "yarn", "linear", None, 5, ["default"])),
    *(("rope_parameters.partial_rotary_factor", [{"partial_rotary_factor": bad}]) for bad in (None, 0, -1, 2, "0.5")),
    *(("rope_parameters.mrope_section", [{"mrope_section": bad}]) for bad in (None, [1], [1, "1", 1], "1,1,1")),
    ("rope_scaling", [{"type": "mrope"}, {"type": "yarn", "factor": 4.0}, "linear", {F: {"rope_theta": 1e6}}]),
    ("hidden_act", ["gelu", "", None, 5, "SiLU"]),
    ("attention_bias", [True, 0, None, "false"]),
    ("attn_output_gate", [False, "true"]),
    ("per_layer_config", [{"0": {"head_dim": 16}}, {}]),
    ("architectures", ["Qwen3_5ForCausalLM", [1], [None], {}, ["LlamaForCausalLM"], ["Other", "Qwen3_5ForCausalLM"]]),
    ("model_type", [None, "", "llama", 5, ["qwen3_5_text"], "Qwen3_5", "qwen3_5_moe"]),
    ("text_config", [{}, None, [], {"hidden_size": 48}]),
    ("use_cache", ["true", None, 1]),
    ("initializer_range", ["0.02", 1, None]),
    ("attention_dropout", ["0", None, True, []]),
    ("pad_token_id", ["0", 1.0, [1], 96, 10**12]),
    ("eos_token_id", ["0", [1, "2"], [None]]),
    ("id2label", [[], "a", {"a": "b"}, {"0": 1}]),
    ("num_labels", ["2", None, 10**12, -1]),
    ("return_dict", [False]),
    ("is_encoder_decoder", [True, None]),
    ("quantization_config", [5, "fp8", []]),
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_the_same_model_as_transformers(changes: dict[str, Any]) -> None:
    assert check_config(config() | changes), "refused"


@pytest.mark.parametrize(("field", "values"), REFUSED, ids=lambda value: str(value)[:50])
def test_the_field_is_named(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(CheckpointError, match=r"^m/config\.json.*" + re.escape(field)) as caught:
            parse_config(config() | {field.partition(".")[0]: value}, "m/config.json")
        assert len(str(caught.value)) < 300


def test_no_list_is_made_of_a_number_of_layers_that_no_model_has() -> None:
    with pytest.raises(CheckpointError, match="num_hidden_layers is 1000000000, but must be less"):
        parse_config(config() | {"num_hidden_layers": 10**9, "layer_types": None})


def test_a_field_of_the_text_part_is_named_with_its_place() -> None:
    for field, values in REFUSED:
        raw = config(tiny.MULTIMODAL)
        name = field.partition(".")[0]
        raw["text_config"] |= {name: values[0]}
        if name in Text.model_fields and name != "model_type" and values[0] != []:
            with pytest.raises(CheckpointError, match=rf"^config\.json: text_config\.{re.escape(field)}"):
                parse_config(raw)


def test_a_text_part_of_another_kind() -> None:
    """transformers would make something else of it, and tie or not tie the head by that."""
    raw = config(tiny.MULTIMODAL)
    raw["text_config"]["model_type"] = "qwen3_5_textqwen3_5_text"
    del raw["tie_word_embeddings"]
    with pytest.raises(CheckpointError, match=r"text_config\.model_type"):
        parse_config(raw)
    raw["text_config"]["model_type"] = "qwen3_5_text"
    assert check_config(raw, tiny.MULTIMODAL)


@pytest.mark.parametrize(
    "text", [None, [], "x", {}, {"text_config": config}, "absent"], ids=lambda text: type(text).__name__
)
def test_a_multimodal_file_without_a_text_part(text: Any) -> None:
    """An empty one is a model of the default sizes, which these weights do not have."""
    raw = config(tiny.MULTIMODAL)
    raw["text_config"] = {"text_config": raw["text_config"]} if isinstance(text, dict) and text else text
    if text == "absent":
        del raw["text_config"]
    assert not check_config(raw, tiny.MULTIMODAL)


@pytest.mark.parametrize(("top", "nested"), list(itertools.product((True, False, "absent"), repeat=2)))
@pytest.mark.parametrize("architecture", ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM", None])
def test_the_tied_flag_is_that_of_the_class(architecture: str | None, top: Any, nested: Any) -> None:
    """The file has no head: where one of transformers' classes ties it and slant loads, that is the head."""
    raw = config(tiny.MULTIMODAL)
    raw["architectures"] = architecture and [architecture]
    for part, flag in ((raw, top), (raw["text_config"], nested)):
        part.pop("tie_word_embeddings") if flag == "absent" else part.update(tie_word_embeddings=flag)
    assert check_config(raw, tiny.MULTIMODAL) or not (top is True and nested is True)


@pytest.mark.parametrize("flag", [True, False, "absent"])
def test_a_head_in_the_file_is_the_head_whatever_the_flag(flag: Any) -> None:
    """As in huggingface/transformers#42612, vllm-project/vllm#51665: it was tied all the same."""
    raw = config() | {"tie_word_embeddings": flag}
    if flag == "absent":
        del raw["tie_word_embeddings"]
    assert check_config(raw)


def test_what_is_left_out_has_the_default_of_transformers() -> None:
    """And all that its class declares is in the table, or known to be without effect."""
    for theirs, table in ((Qwen3_5TextConfig, Text), (Qwen3_5Config, Multimodal)):
        declared = {field.name: field.default for field in dataclasses.fields(theirs)}
        assert declared.keys() - table.model_fields.keys() == {"dtype", "transformers_version"}
        for name in declared.keys() & parse_config(config()).__dict__.keys() - {"layer_types"}:
            assert table.model_fields[name].default == declared[name]


DEEP = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "JSON"),
        (b" ", "JSON"),
        (b"null", "must be an object"),
        (b"[]", "must be an object"),
        (b"5", "must be an object"),
        (b'"x"', "must be an object"),
        (b"{", "JSON"),
        (b"{} {}", "JSON"),
        (b"{'model_type': 'qwen3_5_text'}", "JSON"),
        (b'{"model_type": "qwen3_5_text",}', "JSON"),
        (b'{"model_type": "qwen3_5_text" // text\n}', "JSON"),
        (b'{"model_type": "qwen3_5_text", "a": \xff}', "UTF-8"),
        (b"\0" * 100, "JSON"),
        (DEEP, "JSON"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "JSON"),
        (b" " * (17 << 20), "bytes"),
        (b"<html>404</html>", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", ""),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_file_that_is_no_json_object(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json.*" + word) as caught:
        read_config(tmp_path)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_config_json_is_a_folder_or_absent(tmp_path: Path) -> None:
    for make in (lambda path: None, Path.mkdir):
        make(tmp_path / "config.json")
        with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
            read_config(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    """transformers takes none of these; what they say is not in doubt."""
    folder = folder_with(json.dumps(config()).encode(encoding), "grouped", tmp_path)
    assert torch.equal(ours(folder), ours(checkpoint("grouped")))


def test_of_a_key_that_is_there_twice_the_last_counts(tmp_path: Path) -> None:
    content = json.dumps(config())[:-1] + ', "rms_norm_eps": 0.5, "rms_norm_eps": 0.1}'
    folder = folder_with(content.encode(), "grouped", tmp_path)
    for reference in theirs(folder):
        assert not isinstance(reference, str)
        torch.testing.assert_close(ours(folder), reference, atol=1e-4, rtol=0)


KEYS = (
    "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "full_attention_interval", "layer_types",
    "text_config", "full_attention", "per_layer_config", "quantization_config", "sliding_window", "mlp_layer_types",
    "attn_output_gate", "num_labels", "tie_word_embeddings", "rope_type", "type", "head_dim", "model_type",
)  # fmt: skip


def check_damaged(seed: int) -> None:
    random = Random(seed)
    shape = random.choice(["grouped", "tied", tiny.MULTIMODAL])
    check_config(mutated(config(shape), random, KEYS), shape)


@settings(derandomize=True, max_examples=80, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_a_damaged_config_is_the_same_model_or_an_error_that_names_the_field(seed: int) -> None:
    check_damaged(seed)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_many_damaged_configs(seed: int) -> None:
    check_damaged(seed)
