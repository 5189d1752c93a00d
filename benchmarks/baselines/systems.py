"""What is compared. A system is fitted once for a training set, into a folder, and answers from that folder then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from baselines import lora
from baselines.data import Labelled, digest
from baselines.features import Embedding, Features, FinalPosition, Kept, fingerprint
from baselines.lora import Tuning
from baselines.packaged import MINILM, MPNET, Packaged
from baselines.ridge import Ridge
from slant.engine import Engine
from slant.errors import SlantError
from slant.prompt.prompt import Prompt

Predict = Callable[[Sequence[str]], NDArray[np.float64]]
"""Numbers ``[n, k]`` for texts; a row's largest is its label."""

Progress = Callable[[int, int], None]


class System(Protocol):
    """``key`` says all that a fitted system depends on but the data; ``note`` what a reader of the table should know;
    ``costs`` the name of the system that takes the same time and memory, mostly its own.

    ``fit`` writes what ``load`` needs into a folder and tells facts about it. ``cache`` is a folder that all share, out
    of which a system may take what it knows of a text. Both raise SlantError where the system cannot be had.
    """

    @property
    def name(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def costs(self) -> str: ...
    @property
    def key(self) -> str: ...
    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]: ...
    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict: ...


@dataclass(frozen=True)
class Majority:
    """The most frequent label of training, whatever the text."""

    name: str = "majority"
    note: str = "always the most frequent label of training; its memory is that of the libraries"
    key: str = "majority"
    costs: str = "majority"

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        np.save(folder / "counts.npy", np.bincount(train.labels, minlength=len(train.names)).astype(np.float64))
        return {}

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        counts = np.load(folder / "counts.npy")
        return lambda texts: np.tile(counts, (len(texts), 1))


@dataclass(frozen=True)
class Linear:
    """Ridge on features; see ``Ridge.fit`` for ``scaled`` and ``by_group``, which needs groups to be known."""

    plain: str
    features: Features
    about: str
    scaled: bool = True
    by_group: bool = False

    @property
    def name(self) -> str:
        return self.plain + ("" if self.scaled else "-unscaled") + ("-by-group" if self.by_group else "")

    @property
    def note(self) -> str:
        parts = ["" if self.scaled else "trained unscaled, tested scaled"]
        parts.append("the penalty chosen by left-out groups" if self.by_group else "")
        return "; ".join(filter(None, [self.about, *parts]))

    @property
    def costs(self) -> str:
        return self.plain

    @property
    def key(self) -> str:
        return digest(["ridge", self.features.key, self.scaled, self.by_group])

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        if self.by_group and train.groups is None:
            raise SlantError("the texts have no groups; name their column with --group.")
        vectors = Kept(self.features, cache, progress)(train.texts)
        groups = train.groups if self.by_group else None
        ridge = Ridge.fit(vectors, train.labels, scaled=self.scaled, groups=groups)
        ridge.save(folder / "ridge.npz")
        return {"alpha": ridge.alpha, "features": vectors.shape[1]}

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        ridge = Ridge.load(folder / "ridge.npz")
        read = self.features.load() if cache is None else Kept(self.features, cache)
        return lambda texts: ridge(read(texts))


@dataclass(frozen=True)
class Tuned:
    """A packaged encoder tuned with LoRA."""

    name: str
    model: Packaged = MINILM
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def note(self) -> str:
        return f"{self.model.model} tuned with LoRA, rank {self.tuning.rank}, alpha {self.tuning.alpha}"

    @property
    def costs(self) -> str:
        return self.name

    @property
    def key(self) -> str:
        return digest(["lora", self.model.model, self.model.versions(), asdict(self.tuning)])

    def fit(self, train: Labelled, folder: Path, cache: Path, progress: Progress) -> dict[str, Any]:
        return lora.tune(self.model.folder(), train, self.tuning, folder) | asdict(self.tuning)

    def load(self, folder: Path, names: Sequence[str], cache: Path | None = None) -> Predict:
        return lora.load(folder)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in slant's engine, as it is: nothing is fitted.

    ``tuned=False`` asks a model that was never tuned for these labels: it answers with one digit a label, in their
    order. Otherwise its own labels, or their numbers from 0, must be the data's.
    """

    name: str
    checkpoint: Path
    weights: str
    tuned: bool = True

    @property
    def note(self) -> str:
        return "" if self.tuned else "not tuned for these labels"

    @property
    def costs(self) -> str:
        return self.name

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


def systems(models: Mapping[str, Path], bases: Mapping[str, Path], weights: Sequence[str]) -> list[System]:
    """All systems: those without a checkpoint, and for each checkpoint the engine's answers and ridge on its state.

    models and bases are checkpoints by name, tuned for the labels and not, all of different names; weights are what
    ``Engine.load`` takes.
    """
    found: list[System] = [Majority()]
    for name, model in (("minilm", MINILM), ("mpnet", MPNET)):
        plain = Linear(f"{name}-ridge", Embedding(model), f"sentence embeddings by {model.model}")
        found += [plain, replace(plain, by_group=True), replace(plain, scaled=False)]
    found.append(Tuned("minilm-lora"))
    for name, path in {**bases, **models}.items():
        found += [Checkpoint(f"slant-{name}-{kind}", path, kind, tuned=name in models) for kind in weights]
        state = FinalPosition(path, weights[0])
        plain = Linear(f"{name}-state-ridge", state, f"on the last hidden state of slant-{name}-{weights[0]}")
        found += [plain, replace(plain, by_group=True)]
    return found


def fitted(system: System, train: Labelled, cache: Path, progress: Progress = lambda done, total: None) -> Path:
    """The folder of the fitted system; it is fitted if it was not yet, or not in full. Raises SlantError."""
    folder = cache / digest([system.key, train.digest])
    facts = folder / "facts.json"
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps(system.fit(train, folder, cache, progress)), encoding="utf-8")
    return folder


def facts(folder: Path) -> dict[str, Any]:
    """What fitting told."""
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))
