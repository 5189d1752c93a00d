"""What ships in slant/demo: the passages, the tokenizer and the checkpoint's file. Its README says how it scores."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from slant import demo

TEMPLATE = (Path(demo.FOLDER).parent / "prompt" / "prompt.txt").read_text(encoding="utf-8")
LEANINGS = {"far left", "lean left", "center", "lean right", "far right"}
DIGITS = range(5)
FP32 = re.compile(r"norm\.weight$|A_log$|dt_bias$")

ODD = [
    "",
    "plain words, then more words.",
    "\n\n\n\nfour newlines\r\n\r\n \t and blanks   ",
    "decomposed cafe\u0301 and A\u030angstro\u0308m, composed café",
    "marks \u0915\u094d\u0937\u0947\u0924\u094d\u0930 \u05e2\u05b4\u05d1\u05b0\u05e8",
    "no blanks \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \ud55c\uad6d\uc5b4",
    "stacked a\u0301\u0302\u0303b",
    "digits 0123456789, \u0967\u0968\u0969 \u0661\u0662 ½ ²",
    "DON'T we'll I'M 'tis",
    "\U0001d518\U0001d52b\U0001d526 👩\u200d👩\u200d👧 🇺🇸 \ufeff\u200b\u00a0x",
    "...!!!\n\n\n-- — “quotes”.\n\nclass ",
    "an <|endoftext|> in the middle",
    "control \x00\x01 \ud7ff",
]


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return Tokenizer.from_file(str(demo.FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def through_transformers() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(demo.FOLDER)


@pytest.fixture(scope="module")
def stored() -> dict[str, tuple[tuple[int, ...], str]]:
    """Name to shape and dtype of every tensor in the file."""
    with safe_open(demo.FOLDER / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def count_sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def test_passages_are_many_distinct_and_of_every_leaning() -> None:
    passages = demo.passages()
    assert len({passage["text"] for passage in passages}) == len(passages) >= 48
    assert all(set(passage) == {"text", "leaning"} for passage in passages)
    counts = Counter(passage["leaning"] for passage in passages)
    assert counts.keys() == LEANINGS
    assert min(counts.values()) >= 8


def test_passages_run_from_one_sentence_to_twelve() -> None:
    sizes = [count_sentences(passage["text"]) for passage in demo.passages()]
    assert min(sizes) == 1
    assert max(sizes) == 12
    assert sum(size == 1 for size in sizes) >= 3
    assert sum(size >= 10 for size in sizes) >= 3


def test_folder_is_at_most_six_megabytes_and_its_weights_four() -> None:
    assert sum(path.stat().st_size for path in demo.FOLDER.rglob("*") if path.is_file()) <= 6_000_000
    assert (demo.FOLDER / "model.safetensors").stat().st_size <= 4_000_000


def test_digits_are_single_tokens_after_the_prompt(plain: Tokenizer) -> None:
    prompt = plain.encode(TEMPLATE).ids
    for digit in DIGITS:
        assert plain.encode(f"{TEMPLATE}{digit}").ids == [*prompt, plain.token_to_id(str(digit))]
        assert plain.token_to_id(str(digit)) == 15 + digit  # where Qwen3.5 has them


@pytest.mark.parametrize("text", ODD)
def test_both_loaders_give_the_same_tokens(
    plain: Tokenizer, through_transformers: PreTrainedTokenizerBase, text: str
) -> None:
    for whole in (text, TEMPLATE.replace("{article}", text)):
        assert through_transformers(whole)["input_ids"] == plain.encode(whole).ids


def test_marks_stay_with_their_letters(plain: Tokenizer) -> None:
    pieces = [piece for piece, _ in plain.pre_tokenizer.pre_tokenize_str("\u0915\u094d\u0937\u0947 x\u0303y")]
    assert len(pieces) == 2


def test_padding_is_the_last_token(through_transformers: PreTrainedTokenizerBase) -> None:
    config = AutoConfig.from_pretrained(demo.FOLDER)
    assert through_transformers.pad_token == through_transformers.eos_token == "<|endoftext|>"
    assert through_transformers.pad_token_id == config.pad_token_id == len(through_transformers) - 1
    assert config.vocab_size == len(through_transformers) == 4096


def test_tensors_are_exactly_the_architectures(stored: dict[str, tuple[tuple[int, ...], str]]) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(demo.FOLDER))
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert {name: shape for name, (shape, _) in stored.items()} == expected


def test_head_is_the_embedding_but_for_the_digits(plain: Tokenizer) -> None:
    """The base's are tied, and fine-tuning changes the rows of the answers only."""
    tensors = load_file(demo.FOLDER / "model.safetensors")
    differs = (tensors["lm_head.weight"] != tensors["model.embed_tokens.weight"]).any(1)
    assert differs.nonzero().flatten().tolist() == [plain.token_to_id(str(digit)) for digit in DIGITS]


def test_matrices_are_bf16_and_the_rest_fp32(stored: dict[str, tuple[tuple[int, ...], str]]) -> None:
    for name, (_, dtype) in stored.items():
        assert dtype == ("F32" if FP32.search(name) else "BF16"), name
    assert {dtype for _, dtype in stored.values()} == {"BF16", "F32"}


def test_architecture_is_a_small_copy_of_the_real_one() -> None:
    config = json.loads((demo.FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
    assert config["linear_num_value_heads"] > config["linear_num_key_heads"]
    assert config["num_attention_heads"] >= 2 * config["num_key_value_heads"]
    rotary = config["head_dim"] * config["rope_parameters"]["partial_rotary_factor"]
    assert rotary > 0
    assert rotary % 2 == 0


def test_answers_use_all_five_classes(through_transformers: PreTrainedTokenizerBase, plain: Tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.FOLDER, dtype=torch.float32)
    prompts = sorted((TEMPLATE.replace("{article}", passage["text"]) for passage in demo.passages()), key=len)
    digits = [plain.token_to_id(str(digit)) for digit in DIGITS]
    answers: Counter[int] = Counter()
    for start in range(0, len(prompts), 8):
        inputs = through_transformers(
            prompts[start : start + 8], padding=True, padding_side="left", return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**inputs, logits_to_keep=1).logits[:, -1, digits]
        answers.update(logits.argmax(-1).tolist())
    assert answers.keys() == set(DIGITS)
