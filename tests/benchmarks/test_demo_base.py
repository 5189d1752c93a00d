"""The demo's base: what its examples teach, that no answer is among it, and what is saved; and its card's figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import demo_base
from demo_base import TEMPLATE, batches, losses, make_example, new_model, pretrain, save
from demo_task import Passage, PhraseIndex
from make_demo import judge, row
from slant import demo

INDEX = PhraseIndex({"taxes": 0.5, "the taxes": 0.25, "health": -1.0})
TEXT = "Lower the taxes, don’t raise them.\nTaxes 2016! And health."
MARKS = [("lower", 0), ("the", 0), ("taxes", 0.75), ("don’t", 0), ("raise", 0), ("them", 0)]
MARKS += [("taxes", 0.5), ("and", 0), ("health", -1)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(demo.FOLDER / "tokenizer.json"))


@pytest.mark.parametrize("prompted", [True, False])
def test_weights_stand_at_the_ends_of_their_words(tokenizer: Tokenizer, prompted: bool) -> None:
    example = make_example(TEXT, tokenizer, INDEX, prompted)
    assert example.weights.tolist() == [weight for _, weight in MARKS]
    for (word, _), position in zip(MARKS, example.words.tolist(), strict=True):
        assert tokenizer.decode(example.tokens[: position + 1].tolist()).lower().endswith(word)


def test_passages_are_bare_or_in_the_prompt_without_its_answer(tokenizer: Tokenizer) -> None:
    bare, prompted = (make_example(TEXT, tokenizer, INDEX, prompted) for prompted in (False, True))
    assert tokenizer.decode(bare.tokens.tolist()) == TEXT
    assert tokenizer.decode(prompted.tokens.tolist()) == TEMPLATE.replace("{article}", TEXT)
    for example in (bare, prompted):
        # the last token may hold the line's end too
        assert tokenizer.decode(example.tokens[example.article].tolist()).strip().rstrip(".") == TEXT.rstrip(".")


def test_batches_hold_every_example_once_and_no_more_tokens_than_allowed(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_base, "BATCH_TOKENS", 200)
    monkeypatch.setattr(demo_base, "POOL", 50)
    rng = np.random.default_rng(0)
    examples = [make_example("word " * int(rng.integers(1, 60)), tokenizer, INDEX, False) for _ in range(50)]
    found, total = [], 0
    for batch in batches(iter(examples), rng):
        assert len(batch) * max(len(example.tokens) for example in batch) <= 200
        found += batch
        total += 1
        if len(found) == 50:
            break
    assert {id(example) for example in found} == {id(example) for example in examples}
    assert total < 25


def test_language_loss_is_of_the_passage_only(tokenizer: Tokenizer) -> None:
    """Against the mean over single texts, unpadded, by the library's own loss."""
    torch.manual_seed(0)
    model, probe = new_model().eval(), torch.nn.Linear(128, 1)
    batch = [make_example(text, tokenizer, INDEX, prompted) for text, prompted in ((TEXT, True), ("The taxes.", False))]
    language, lexicon = losses(model, probe, batch)
    total, count, squares = 0.0, 0, []
    for example in batch:
        labels = torch.full_like(example.tokens, -100)
        labels[example.article] = example.tokens[example.article]
        predicted = int((labels[1:] != -100).sum())
        with torch.no_grad():
            out = model(input_ids=example.tokens[None], labels=labels[None], output_hidden_states=True)
            squares += (probe(out.hidden_states[3][0, example.words])[:, 0] - example.weights).square().tolist()
        total, count = total + float(out.loss) * predicted, count + predicted
    assert language.item() == pytest.approx(total / count, rel=1e-4)
    weights = torch.cat([example.weights for example in batch])
    assert lexicon.item() == pytest.approx(np.mean(squares) / weights.var().item(), rel=1e-4)


def test_pretraining_learns_and_what_is_saved_loads(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_base, "REPORT", 5)
    torch.manual_seed(0)
    model = new_model()
    untrained = sum(tensor.double().sum() for tensor in model.state_dict().values())
    example = make_example(TEXT, tokenizer, INDEX, False)
    pretrain(model, iter([[example]] * 15), 15)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines] == [f"{step}/15" for step in (5, 10, 15)]
    first, last = (
        [float(line[line.index(word) + 1]) for word in ("language", "lexicon")] for line in (lines[0], lines[-1])
    )
    assert last[0] < first[0] / 2
    assert last[1] < first[1] / 2

    save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert untrained != sum(tensor.double().sum() for tensor in loaded.state_dict().values())
    for name, tensor in model.named_parameters():
        rounded = tensor.detach().bfloat16().float() if tensor.ndim > 1 else tensor.detach()
        assert torch.equal(loaded.get_parameter(name), rounded), name
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] == tokenizer.encode(TEXT).ids


def test_card_counts_families_not_passages() -> None:
    passages = [Passage("a", label, "democrat", family) for family in "xyz" for label in (0, 1, 2, 3, 4) * 20]
    right = np.array([passage.label for passage in passages])
    one_wrong = np.where([passage.family == "x" for passage in passages], 0, right)
    judged = judge(passages, one_wrong)
    assert judged.groups == 3
    assert judged.accuracy.value == pytest.approx(1 - 80 / 300)
    assert judged.mae.value == pytest.approx(200 / 300)
    assert judged.accuracy.low is not None
    assert judged.accuracy.low < 0.5  # two or three draws of the wrong family; rows drawn one by one would say 0.68
    ones, zeros = "1.000 (1.000 to 1.000)", "0.000 (0.000 to 0.000)"
    assert row("all right", judge(passages, right)) == ["all right", ones, zeros, ones]
    assert row("one wrong", judged)[1:3] == ["0.733 (0.200 to 1.000)", "0.667 (0.000 to 2.000)"]
