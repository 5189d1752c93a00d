"""A linear classifier on features: StandardScaler and RidgeClassifierCV, in plain arrays once it is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slant.evaluation.metrics import Labels

ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
FOLDS = 5


@dataclass(frozen=True)
class Ridge:
    """Decision values ``weights ((x - mean) / scale) + intercept`` of features x; ``alpha`` is the chosen penalty.

    mean and scale are ``[d]``, weights ``[k, d]`` and intercept ``[k]``, all float64.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    alpha: float

    @classmethod
    def fit(
        cls, features: NDArray, labels: Labels, *, scaled: bool = True, groups: NDArray[np.str_] | None = None
    ) -> Ridge:
        """Fit on features ``[n, d]`` and labels int64 ``[n]`` of 0 to k - 1, all of which occur.

        The penalty is chosen by leave-one-out; with ``groups`` ``[n]`` by leaving out groups. Where training texts
        overlap, or come from few authors, a left-out text's neighbours stay in, and too small a penalty looks best.

        ``scaled=False`` is a mistake that is easily made, kept to be measured: the scaler is fitted and the classifier
        then trained on the features as they were, while those to be classified are scaled.
        """
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.preprocessing import StandardScaler

        features = np.asarray(features, dtype=np.float64)
        scaler = StandardScaler().fit(features)
        seen = scaler.transform(features) if scaled else features
        folds = None if groups is None else list(_left_out(labels, groups))
        classifier = RidgeClassifierCV(alphas=ALPHAS, cv=folds).fit(seen, labels)
        weights, intercept = np.atleast_2d(classifier.coef_), np.atleast_1d(classifier.intercept_)
        if len(weights) == 1:  # two labels have one decision value, of the second
            weights, intercept = np.vstack([-weights, weights]), np.concatenate([-intercept, intercept])
        return cls(scaler.mean_, scaler.scale_, weights, intercept, float(classifier.alpha_))

    def __call__(self, features: NDArray) -> NDArray[np.float64]:
        """Decision values ``[n, k]``; the largest is the label."""
        return (features - self.mean) / self.scale @ self.weights.T + self.intercept

    def save(self, path: Path) -> None:
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Ridge:
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays} | {"alpha": float(arrays["alpha"])})


def _left_out(labels: Labels, groups: NDArray[np.str_]) -> Iterator[tuple[NDArray, NDArray]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(min(FOLDS, len(np.unique(groups))))
    yield from folds.split(np.zeros(len(labels)), labels, groups)
