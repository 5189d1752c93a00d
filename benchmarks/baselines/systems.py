"""What is compared. A system is fitted once for a training set, into a folder, and answers from that folder then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines import lora
from baselines.data import Labelled, digest
from baselines.features import Embedding, Features, FinalPosition, Kept, fingerprint
from baselines.lora import Tuning
from baselines.packaged import MINILM, MPNET, Packaged
from slant.engine import Engine
from slant.errors import SlantError
from slant.evaluation.metrics import Labels
from slant.prompt.prompt import Prompt

ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FOLDS = 5

Predict = Callable[[Sequence[str]], NDArray[np.float64]]
"""Numbers ``[n, k]`` for texts; a row's largest is its label."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class System:
    """``note`` is what a reader of the table should know; ``costs`` the system that takes the same time and memory.

    ``key`` says all that a fitted system depends on but the data. ``fit`` writes what ``load`` needs into a folder and
    gives facts about it. ``cache`` is a folder that all share, out of which a system may take what it knows of a text.
    Both raise SlantError where the system cannot be had.
    """

    name: str
    note: str = ""
    costs: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", self.costs or self.name)


@dataclass(frozen=True)
class Majority(System):
    """The most frequent label of training, whatever the text."""

    key: str = "majority"

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        np.save(folder / "counts.npy", np.bincount(train.labels, minlength=len(train.names)).astype(np.float64))
        return {}

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        counts = np.load(folder / "counts.npy")
        return lambda texts: np.tile(counts, (len(texts), 1))


@dataclass(frozen=True)
class Linear(System):
    """Ridge on features: scikit-learn's StandardScaler and RidgeClassifierCV.

    The penalty is chosen by leave-one-out; ``by_group`` by leaving out groups. Where training texts overlap, or come
    from few authors, a left-out text's neighbours stay in, and too small a penalty looks best.

    ``scaled=False`` is a mistake that is easily made, kept to be measured: the scaler is fitted and the classifier then
    trained on the features as they were, while those to be classified are scaled.
    """

    features: Features = field(kw_only=True)
    scaled: bool = True
    by_group: bool = False

    @property
    def key(self) -> str:
        return digest(["ridge pipeline", self.features.key, self.scaled, self.by_group])

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        import joblib

        if self.by_group and train.groups is None:
            raise SlantError("the texts have no groups; name their column with --group.")
        vectors = Kept(self.features, cache, progress)(train.texts)
        pipeline = ridge(vectors, train.labels, scaled=self.scaled, groups=train.groups if self.by_group else None)
        joblib.dump(pipeline, folder / "ridge.joblib")
        return {"alpha": float(pipeline[-1].alpha_), "features": vectors.shape[1]}

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        import joblib

        pipeline = joblib.load(folder / "ridge.joblib")
        read = self.features.load() if cache is None else Kept(self.features, cache)
        return lambda texts: decisions(pipeline, read(texts))


def ridge(features: NDArray, labels: Labels, *, scaled: bool = True, groups: NDArray[np.str_] | None = None) -> Any:
    """A fitted scikit-learn pipeline for features ``[n, d]`` and labels ``[n]``; see ``Linear``."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    features, folds = np.asarray(features, dtype=np.float64), None
    if groups is not None:
        splits = StratifiedGroupKFold(min(FOLDS, len(np.unique(groups))))
        folds = list(splits.split(np.zeros(len(labels)), labels, groups))
    scaler = StandardScaler().fit(features)
    classifier = RidgeClassifierCV(alphas=ALPHAS, cv=folds).fit(
        scaler.transform(features) if scaled else features, labels
    )
    return Pipeline([("scaler", scaler), ("ridge", classifier)])


def decisions(pipeline: Any, features: NDArray) -> NDArray[np.float64]:
    """Decision values ``[n, k]`` of a pipeline: two labels have one value there, of the second."""
    values = pipeline.decision_function(np.asarray(features, dtype=np.float64))
    return values if values.ndim == 2 else np.stack([-values, values], -1)


@dataclass(frozen=True)
class Tuned(System):
    """A packaged encoder tuned with LoRA."""

    model: Packaged = MINILM
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def key(self) -> str:
        return digest(["lora", self.model.model, self.model.versions(), asdict(self.tuning)])

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        return lora.tune(self.model.folder(), train, self.tuning, folder) | asdict(self.tuning)

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        return lora.load(folder)


def tuned(name: str, tuning: Tuning | None = None) -> Tuned:
    """MiniLM with these or the default settings."""
    tuning = tuning or Tuning()
    note = f"{MINILM.model} tuned with LoRA, rank {tuning.rank}, alpha {tuning.alpha}"
    return Tuned(name, note, tuning=tuning)


@dataclass(frozen=True)
class Checkpoint(System):
    """A checkpoint in slant's engine, as it is: nothing is fitted.

    ``tuned=False`` asks a model that was never tuned for these labels: it answers with one digit a label, in their
    order. Otherwise its own labels, or their numbers from 0, must be the data's.
    """

    checkpoint: Path = field(kw_only=True)
    weights: str = "bf16"
    tuned: bool = True

    @property
    def key(self) -> str:
        return digest(["checkpoint", fingerprint(self.checkpoint), self.weights, self.tuned])

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        if self.tuned:
            self._order(Prompt.load(self.checkpoint).label_names, train.names)
        return {}

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        labels = None if self.tuned else {str(number): name for number, name in enumerate(names)}
        engine = Engine.load(self.checkpoint, weights=self.weights, device="cpu", labels=labels)
        order = self._order(engine.labels, names)

        def predict(texts: Sequence[str]) -> NDArray[np.float64]:
            scores = engine.score(list(texts))
            if error := next((error for error in scores.error if error), None):
                raise SlantError(f"a text has no score: {error}")
            return scores.probabilities[:, order].astype(np.float64)

        return predict

    def _order(self, own: Sequence[str], names: Sequence[str]) -> list[int]:
        """Where each of the data's labels is among the model's own; raises SlantError if they are not the same."""
        known = [name.casefold() for name in own]
        numbers = [str(number) for number in range(len(own))]
        for spelled in (known, numbers):
            if sorted(spelled) == sorted(name.casefold() for name in names):
                return [spelled.index(name.casefold()) for name in names]
        raise SlantError(f"{self.name} answers {', '.join(own)}, and the data's labels are {', '.join(names)}.")


def systems(models: Mapping[str, Path], bases: Mapping[str, Path], weights: Sequence[str]) -> Iterator[System]:
    """All systems: those without a checkpoint, and for each checkpoint the engine's answers and ridge on its state.

    models and bases are checkpoints by name, tuned for the labels and not, all of different names; weights are what
    ``Engine.load`` takes.
    """
    yield Majority("majority", "always the most frequent label of training; its memory is that of the libraries")
    for name, model in (("minilm", MINILM), ("mpnet", MPNET)):
        about, features = f"sentence embeddings by {model.model}", Embedding(model)
        yield from _ridges(f"{name}-ridge", features, about)
        note = f"{about}; trained unscaled, tested scaled"
        yield Linear(f"{name}-ridge-unscaled", note, f"{name}-ridge", features=features, scaled=False)
    yield tuned("minilm-lora")
    for name, path in {**bases, **models}.items():
        note = "" if name in models else "not tuned for these labels"
        for kind in weights:
            yield Checkpoint(f"slant-{name}-{kind}", note, checkpoint=path, weights=kind, tuned=name in models)
        about = f"on the last hidden state of slant-{name}-{weights[0]}"
        yield from _ridges(f"{name}-state-ridge", FinalPosition(path, weights[0]), about)


def _ridges(name: str, features: Features, about: str) -> Iterator[Linear]:
    yield Linear(name, about, features=features)
    note = f"{about}; the penalty chosen by left-out groups"
    yield Linear(f"{name}-by-group", note, name, features=features, by_group=True)


def fitted(system: System, train: Labelled, cache: Path, progress: Progress = lambda done, total: None) -> Path:
    """The folder of the fitted system; it is fitted if it was not yet, or not in full. Raises SlantError."""
    folder = cache / digest([system.key, train.digest])
    facts = folder / "facts.json"
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps(system.fit(train, folder, cache, progress)), encoding="utf-8")
    return folder


def facts(folder: Path) -> dict[str, Any]:
    """What fitting gave."""
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def worker(options: dict[str, Any]) -> Callable[[list[str], int], list[list[float]]]:
    """A fitted system in a process of its own, for ``harness/worker.py``: texts in, a list of numbers a text out.

    Options: system (its name), folder (where it was fitted), names (of the labels), threads, and what ``systems`` takes
    to know it: models, bases and weights.
    """
    torch.set_num_threads(options["threads"])
    models, bases = ({name: Path(path) for name, path in options[kind].items()} for kind in ("models", "bases"))
    known = {system.name: system for system in systems(models, bases, options["weights"])}
    predict = known[options["system"]].load(Path(options["folder"]), options["names"])
    return lambda texts, batch: predict(texts).tolist()


PACKAGES = {"worker": ("slant", "torch", "transformers", "sentence-transformers", "scikit-learn")}
