"""The demo's task: who is on which side, what a passage is and what its label, and the files."""

import csv
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

import demo_task
from demo_task import LABELS, Passage, PhraseIndex, Task, draw, write_all
from texts import DEMOCRAT, MODERATOR, REPUBLICAN, Speech, sentences

WORDS = ["".join(letters) for letters in product("bdfgklmnpr", "aeiou", "bdfgklmnpr")]  # 500, all pronounceable
THEMES = {DEMOCRAT: "wages", REPUBLICAN: "markets", MODERATOR: "questions"}
KINDS = ["".join(letters) for letters in product("bdfgklmnpr", "ao")]  # so that no single word is frequent


def speech(i: int, party: str) -> Speech:
    """Thirty sentences of ten random words, every other one with a word of the party's theme."""
    rng = np.random.default_rng(i)
    said = [[*rng.choice(WORDS, 9), rng.choice(KINDS) + THEMES[party] if j % 2 else "today"] for j in range(30)]
    return Speech(f"Given Person{i}", party, " ".join(" ".join(words).capitalize() + "." for words in said), "a hall")


SPEECHES = [speech(i, (DEMOCRAT, REPUBLICAN, DEMOCRAT, REPUBLICAN, MODERATOR)[i % 5]) for i in range(60)]


@pytest.fixture(scope="module")
def task() -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_task, "speeches", lambda: SPEECHES)
        patch.setattr(demo_task, "PASSAGES_CUT", 500)
        return Task.make()


def test_no_family_is_on_both_sides(task: Task) -> None:
    sides = {passage.family for passage in task.train(300)}, {passage.family for passage in task.test(2, 6)}
    assert all(sides)
    assert not sides[0] & sides[1]


def test_index_and_cuts_know_nothing_of_the_held_out(task: Task) -> None:
    assert task.index == PhraseIndex.fit(task.training, demo_task.PHRASES)
    texts = [text for _, text in islice(draw(task.training, np.random.default_rng(5)), 1000)]
    shares = np.bincount([task.passage(SPEECHES[0], text).label for text in texts], minlength=LABELS) / len(texts)
    np.testing.assert_allclose(shares, 1 / LABELS, atol=0.05)


def test_label_counts_the_cuts_below_the_index(task: Task) -> None:
    texts = [f"{'bab ' * common}{theme}" for common in (0, 3, 30, 300) for theme in ("bawages", "bamarkets", "rot")]
    labels = {text: task.passage(SPEECHES[0], text).label for text in texts}
    assert labels == {text: sum(cut <= task.index.score(text) for cut in task.cuts) for text in texts}
    assert labels["bawages"] == 0
    assert labels["bamarkets"] == LABELS - 1


def test_every_held_out_sentence_is_used_once_and_in_order(task: Task) -> None:
    for fewest, most in ((2, 6), (12, 12)):
        passages = task.test(fewest, most)
        for held_out in task.held_out:
            joined = " ".join(passage.text for passage in passages if passage.family == held_out.family)
            assert held_out.text.startswith(joined)
            assert len(sentences(held_out.text)) - len(sentences(joined)) < fewest
        assert {len(sentences(passage.text)) for passage in passages} == set(range(fewest, most + 1))


def test_training_passages_differ_and_are_parts_of_one_speech(task: Task) -> None:
    passages = task.train(300)
    assert len({passage.text for passage in passages}) == len(passages) == 300
    by_family = {speech.family: speech for speech in task.training}
    for passage in passages:
        speech = by_family[passage.family]
        assert passage.text.replace("\n", " ") in speech.text
        assert passage.party == speech.party
    assert {len(sentences(passage.text)) for passage in passages} >= set(range(1, 9))
    assert passages == task.train(300)
    assert passages[:100] == task.train(100)


def test_party_files_are_the_rows_of_the_two_parties(task: Task, tmp_path: Path) -> None:
    files = write_all(task, tmp_path / "new" / "folder", 200)
    for name, passages in files.items():
        with (tmp_path / "new" / "folder" / name).open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert tuple(header) == Passage._fields == ("text", "label", "party", "family")
        assert rows == [[p.text, str(p.label), p.party, p.family] for p in passages]
    assert {passage.party for passage in files["train.csv"]} == {DEMOCRAT, REPUBLICAN, MODERATOR}
    for side in ("train", "test"):
        two = files[f"party-{side}.csv"]
        assert {passage.party for passage in two} == {DEMOCRAT, REPUBLICAN}
        assert two == [passage for passage in files[f"{side}.csv"] if passage.party != MODERATOR]
