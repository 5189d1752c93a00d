"""Folders whose tokenizer.json is not what transformers reads: refused; all others give AutoTokenizer's tokens."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from transformers import AutoTokenizer

from slant.demo import FOLDER
from slant.errors import PromptError
from slant.prompt.prompt import Prompt
from slant.prompt.tokenizer_class import OWN, PATTERNS

# combining marks that NFC leaves alone tell the two patterns apart
TEXTS = [
    "Hello, world. You're 123!",
    "Zwo\u0308lf \u092e\u0928\u094d\u0924\u094d\u0930\u0940 x\u0323\u0301",
    "  two\n\n\nlines",
]
BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [4095], "tokens": ["<|endoftext|>"]}},
}


def pattern(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**BYTES, "use_regex": False}]}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
FILES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "of Qwen2": {"pre_tokenizer": pattern(PATTERNS["Qwen2Tokenizer"])},
    "digits in threes": {"pre_tokenizer": pattern(r"\p{N}{1,3}|\p{L}+| ")},
    "of GPT-2": {"pre_tokenizer": {**BYTES, "use_regex": True}},
    "a prefix space": {"pre_tokenizer": {**BYTES, "use_regex": True, "add_prefix_space": True}},
    "not normalized": {"normalizer": None},
    "in lower case": {"normalizer": {"type": "Lowercase"}},
    "BOS first": {"post_processor": BOS},
    "truncated": {"truncation": {"max_length": 16, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
    "merges ignored": {"model": {"ignore_merges": True}},
    "unknown token": {"model": {"unk_token": "<|endoftext|>"}},
}
CLASSES = (None, OWN, "Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
OTHER_CLASSES = ("GPT2Tokenizer", "LlamaTokenizerFast", "BertTokenizer", "NoSuchTokenizer")
REFUSED = "the folder is refused"


def write(folder, model_type: str, settings: dict[str, Any] | None, change: dict[str, Any]):
    shutil.copy(FOLDER / "config.json", folder)
    config = json.loads((FOLDER / "config.json").read_bytes())
    if model_type == "qwen3_5":
        config = {"model_type": model_type, "text_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    content = json.loads((FOLDER / "tokenizer.json").read_bytes())
    change = {**change, "model": {**content["model"], **change.get("model", {})}}
    (folder / "tokenizer.json").write_text(json.dumps(content | change))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def outcome(folder) -> str:
    """REFUSED, or "as transformers" if every text has AutoTokenizer's tokens; anything else fails."""
    try:
        prompt = Prompt.load(folder)
    except PromptError:
        return REFUSED
    theirs = AutoTokenizer.from_pretrained(folder)
    for text, row in zip(TEXTS, prompt.encode(TEXTS), strict=True):
        assert row.ids.tolist() == theirs(prompt.template.replace("{article}", text.strip())).input_ids
    return "as transformers"


@pytest.mark.parametrize("change", FILES)
@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_text"])
def test_tokens_are_those_of_transformers_or_the_folder_is_refused(tmp_path, model_type, change):
    """As in huggingface/transformers#45701, #45920: version 5 leaves the file's own splitting out."""
    for name in CLASSES:
        folder = tmp_path / str(name)
        folder.mkdir()
        outcome(write(folder, model_type, {"tokenizer_class": name} if name else {}, FILES[change]))


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_classes_of_other_models(tmp_path, name):
    found = outcome(write(tmp_path, "qwen3_5_text", {"tokenizer_class": name}, {}))
    assert found == ("as transformers" if name == "LlamaTokenizerFast" else REFUSED)


def test_usual_folders_are_read(tmp_path):
    """The demo's; Qwen's own, which names Qwen2Tokenizer; one saved by transformers 5; one without a config."""
    cases = (
        ("qwen3_5_text", OWN),
        ("qwen3_5", "Qwen2Tokenizer"),
        ("qwen3_5_text", "TokenizersBackend"),
        ("qwen3_5", None),
    )
    for number, (model_type, name) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert outcome(write(folder, model_type, {"tokenizer_class": name} if name else None, {})) != REFUSED


def test_the_way_out_leads_out(tmp_path):
    """tokenizer.json of Qwen3.5 in a text-only folder whose tokenizer_config.json names Qwen2Tokenizer."""
    folder = write(tmp_path, "qwen3_5_text", {"tokenizer_class": "Qwen2Tokenizer"}, {})
    with pytest.raises(PromptError, match=r"splits texts otherwise than Qwen2Tokenizer.*save_pretrained"):
        Prompt.load(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    assert outcome(folder) != REFUSED


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"add_prefix_space": True}, {}, "add_prefix_space"),
        ({}, {"model": {"dropout": 0.1}}, "at random"),
        ([], {}, "no JSON object"),
    ],
)
def test_what_else_changes_tokens_is_named(tmp_path, settings, change, message):
    with pytest.raises(PromptError, match=message):
        Prompt.load(write(tmp_path, "qwen3_5_text", settings, change))
