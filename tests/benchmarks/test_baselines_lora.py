"""The encoder that is tuned with LoRA: what is trained, that batches may be computed in parts, and what is saved."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedTokenizerFast

import pictures
from baselines import lora
from baselines.data import Labelled
from baselines.lora import Tuning, load, tune
from sweep_lora import newest

pytest.importorskip("peft")

WORDS = ["good", "bad", "fine", "poor", "the", "of", "and", "a", "it", "was"]
PLAIN = Tuning(dropout=0.0, epochs=1, batch=32, bf16=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A BERT of a few kilobytes without dropout, and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertModel(BertConfig(vocab_size=len(WORDS) + 4, **sizes, **none)).save_pretrained(folder)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*marks, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder


def data(count, seed=0):
    """Texts of 2 to 12 filler words with one word that tells the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = []
    for label in labels:
        words = [*rng.choice(WORDS[4:], rng.integers(2, 13)), WORDS[2 * rng.integers(0, 2) + label]]
        texts.append(" ".join(rng.permutation(words)))
    return Labelled(tuple(texts), labels, ("good", "bad"))


def weights(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def test_it_learns_and_what_is_saved_answers_alike_alone_and_in_company(base, tmp_path):
    facts = tune(base, data(192), Tuning(epochs=10, rate=2e-2, batch=32), tmp_path)
    test = data(100, seed=1)
    predict = load(tmp_path)
    logits = predict(test.texts)
    assert (logits.argmax(-1) == test.labels).mean() > 0.95
    alone = np.concatenate([predict([text]) for text in test.texts[:20]])
    np.testing.assert_allclose(alone, logits[:20], atol=1e-5)
    assert predict([*test.texts[::-1]])[::-1] == pytest.approx(logits, abs=1e-5)
    # Two layers, query and value, down and up; the head's weights and biases.
    assert facts["trained_parameters"] == 2 * 2 * 2 * 8 * 32 + 2 * 32 + 2
    assert facts["training_loss"] < 0.6
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "good", 1: "bad"}


def test_only_query_value_and_head_change_and_the_seed_decides(base, tmp_path):
    for name in ("one", "two"):
        tune(base, data(64), replace(PLAIN, rate=1e-2), tmp_path / name)
    tune(base, data(64), replace(PLAIN, rate=1e-2, seed=1), tmp_path / "other")
    before, one, two, other = (weights(folder) for folder in (base, *map(tmp_path.joinpath, ("one", "two", "other"))))
    changed = {name for name in one if name in before and not torch.equal(one[name], before[name])}
    attention = {f"bert.encoder.layer.{i}.attention.self.{part}.weight" for i in (0, 1) for part in ("query", "value")}
    assert {name for name in changed if not name.startswith("classifier.")} == attention
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in attention)
    for name, seed in (("start", 42), ("other start", 1)):  # untrained, the head is as it was drawn
        tune(base, data(32), replace(PLAIN, rate=0.0, seed=seed), tmp_path / name)
    start, other_start = (weights(tmp_path / name)["classifier.weight"] for name in ("start", "other start"))
    assert not torch.equal(start, other_start)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(base, tmp_path, monkeypatch):
    found = []
    for part in (32, 8):
        monkeypatch.setattr(lora, "PART", part)
        folder = tmp_path / str(part)
        # The optimizer's steps hardly depend on the gradient's size, so compare the loss that it was told as well.
        facts = tune(base, data(96), replace(PLAIN, epochs=2, rate=1e-3), folder)
        found.append((facts["training_loss"], weights(folder)))
    (loss, whole), (parted_loss, parted) = found
    assert parted_loss == pytest.approx(loss, abs=1e-4)
    for name in whole:
        torch.testing.assert_close(parted[name], whole[name], atol=2e-5, rtol=0)


def test_long_texts_are_cut_and_do_not_fail(base, tmp_path):
    tune(base, data(32), PLAIN, tmp_path)
    predict = load(tmp_path)
    words = "good " * 300
    np.testing.assert_allclose(predict([words]), predict([words + "bad " * 100]))


def test_the_sweeps_picture_is_of_the_newest_cells_alike_and_the_same_each_time(tmp_path):
    like = {"data": "d", "task": "party", "training_texts": 1200, "epochs": 15, "rate": 2e-4, "batch": 64, "seed": 42}
    like |= {"bf16": False}
    cells = [(4, 8, 0.5), (4, 16, 0.6), (8, 8, 0.55), (4, 8, 0.512)]
    rows = [like | {"rank": r, "alpha": a, "accuracy": [value, value - 0.1, None]} for r, a, value in cells]
    rows[0]["accuracy"] = [0.5, None, None]
    for row in rows[1:]:
        row["accuracy"][2] = row["accuracy"][0] + 0.1
    other = rows[0] | {"seed": 7, "rank": 16}
    chosen = newest([*rows, other], rows[0])
    assert [(row["rank"], row["alpha"], row["accuracy"][0]) for row in chosen] == [
        (4, 8, 0.512),
        (4, 16, 0.6),
        (8, 8, 0.55),
    ]
    drawn = []
    for name in ("one.svg", "two.svg"):
        pictures.lora_sweep(chosen, tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    assert b"rank 4: 0.600" in drawn[0]
