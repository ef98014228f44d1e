"""Image classifiers that differ in how they meet turned and moved inputs: what an evaluation on orbits compares."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from anytask.core.rng import derive
from anytask.evaluate.nero import NERO
from anytask.evaluate.parts.planar_groups import cyclic
from anytask.evaluate.parts.transforms import Transforms


class PlainMLP(ClassifierMixin, BaseEstimator):
    """A multi-layer perceptron trained on the images as they are.

    Parameters
    ----------
    hidden : int, default 64
        Width of the hidden layer.
    epochs : int, default 200
        Most passes over the data; training stops when the loss does.
    seed : int, default 0
        Everything random follows from it.

    Attributes
    ----------
    classes_ : ndarray
        The labels, in the order of the columns of :meth:`predict_proba`.
    input_shape_ : tuple of int
        Shape of one input.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4, 4))
    >>> y = (X[:, 0, 0] > 0).astype(int)
    >>> model = PlainMLP(epochs=100).fit(X, y)
    >>> model.predict_proba(X).shape
    (60, 2)
    """

    def __init__(self, hidden: int = 64, epochs: int = 200, seed: int = 0) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.seed = seed

    def fit(self, X: Any, y: Any, group: Transforms | None = None) -> Self:
        """Learn from images X (n, ...) with labels y (n,); ``group`` is for the subclasses that use it."""
        X, y = np.asarray(X, dtype=np.float32), np.asarray(y)
        if len(X) != len(y) or len(X) == 0:
            raise ValueError(f"X has {len(X)} rows and y has {len(y)} labels: they must match, and be at least 1")
        self.input_shape_ = X.shape[1:]
        rows, labels = self._training_set(X, y, group)
        self.model_ = self._new_model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is a setting
            self.model_.fit(rows.reshape(len(rows), -1), labels)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, shape (n, classes)."""
        X = np.asarray(X, dtype=np.float32)
        return self.model_.predict_proba(X.reshape(len(X), -1))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable labels, shape (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _training_set(self, X: np.ndarray, y: np.ndarray, group: Transforms | None) -> tuple[np.ndarray, np.ndarray]:
        return X, y

    def _new_model(self) -> Any:
        return MLPClassifier((self.hidden,), max_iter=self.epochs, random_state=derive(self.seed, "mlp") % 2**32)


class AugmentedMLP(PlainMLP):
    """A multi-layer perceptron trained on every image under every element of the group.

    Parameters
    ----------
    hidden : int, default 128
        Width of the hidden layer.
    epochs : int, default 30
        Most passes over the enlarged data.
    seed : int, default 0
        Everything random follows from it.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(40, 4, 4))
    >>> y = (X.mean(axis=(1, 2)) > 0).astype(int)
    >>> AugmentedMLP(epochs=2).fit(X, y, cyclic(4)).predict(X).shape
    (40,)
    """

    def __init__(self, hidden: int = 128, epochs: int = 30, seed: int = 0) -> None:
        super().__init__(hidden, epochs, seed)

    def _training_set(self, X: np.ndarray, y: np.ndarray, group: Transforms | None) -> tuple[np.ndarray, np.ndarray]:
        if group is None:
            raise ValueError("AugmentedMLP needs the group whose elements it is to learn: fit(X, y, group)")
        moved = group.orbit(X, [group.elements[k] for k in group.distinct])  # (m, n, ...)
        return moved.reshape(-1, *moved.shape[2:]), np.tile(y, len(moved))


class C4AveragedMLP(PlainMLP):
    """A multi-layer perceptron, trained on quarter turns, whose probabilities are averaged over those of the input.

    Exactly alike for an image and its quarter turns, whatever it learned; images must be square.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(40, 4, 4))
    >>> model = C4AveragedMLP(epochs=5).fit(X, np.arange(40) % 2)
    >>> turned = np.rot90(X, axes=(1, 2))
    >>> bool(np.abs(model.predict_proba(X) - model.predict_proba(turned)).max() < 1e-6)
    True
    """

    def _training_set(self, X: np.ndarray, y: np.ndarray, group: Transforms | None) -> tuple[np.ndarray, np.ndarray]:
        return cyclic(4).orbit(X).reshape(-1, *X.shape[1:]), np.tile(y, 4)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the average of the probabilities under the four quarter turns."""
        turned = cyclic(4).orbit(np.asarray(X, dtype=np.float32))
        return np.mean([super(C4AveragedMLP, self).predict_proba(part) for part in turned], axis=0)


class LinearClassifier(PlainMLP):
    """Logistic regression on the pixels.

    Examples
    --------
    >>> X = np.array([[[0.0]], [[1.0]]])
    >>> LinearClassifier().fit(X, ["dark", "bright"]).predict(X).tolist()
    ['dark', 'bright']
    """

    def _new_model(self) -> Any:
        return LogisticRegression(max_iter=1000)


class Chosen(ClassifierMixin, BaseEstimator):
    """The best of several classifiers, by their accuracy on held-out images as they are, or on their whole orbits.

    Parameters
    ----------
    by : {"accuracy", "orbit"}, default "accuracy"
        "accuracy": right on held-out images. "orbit": right on average over the orbits of the same images, as
        :class:`~anytask.evaluate.nero.NERO` measures it.
    holdout : float, default 0.25
        Share of the images that the candidates are compared on, and not trained on.
    seed : int, default 0
        Everything random follows from it.

    Attributes
    ----------
    scores_ : dict of str to float
        What each candidate reached.
    chosen_ : str
        The name of the winner.
    classes_, input_shape_
        As in :class:`PlainMLP`.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(80, 4, 4))
    >>> y = (X[:, 0, 0] > 0).astype(int)
    >>> sorted(Chosen().fit(X, y, cyclic(4)).scores_)
    ['C4-averaged MLP', 'augmented MLP', 'linear', 'plain MLP']
    """

    def __init__(self, by: Literal["accuracy", "orbit"] = "accuracy", holdout: float = 0.25, seed: int = 0) -> None:
        self.by = by
        self.holdout = holdout
        self.seed = seed

    def fit(self, X: Any, y: Any, group: Transforms | None = None) -> Self:
        """Train the candidates on most of (X, y), compare them on the rest, and keep the best."""
        if group is None:
            raise ValueError("Chosen needs the group that the candidates may use: fit(X, y, group)")
        if self.by not in ("accuracy", "orbit"):
            raise ValueError(f"by must be 'accuracy' or 'orbit', got {self.by!r}")
        X, y = np.asarray(X, dtype=np.float32), np.asarray(y)
        X_fit, X_held, y_fit, y_held = train_test_split(
            X, y, test_size=self.holdout, random_state=derive(self.seed, "holdout") % 2**32, stratify=y
        )
        square = X.ndim > 2 and X.shape[-1] == X.shape[-2]
        candidates: dict[str, PlainMLP] = {
            "plain MLP": PlainMLP(seed=self.seed),
            "augmented MLP": AugmentedMLP(seed=self.seed),
            **({"C4-averaged MLP": C4AveragedMLP(seed=self.seed)} if square else {}),
            "linear": LinearClassifier(seed=self.seed),
        }
        for model in candidates.values():
            model.fit(X_fit, y_fit, group)
        if self.by == "accuracy":
            self.scores_ = {name: float((model.predict(X_held) == y_held).mean()) for name, model in candidates.items()}
        else:
            nero = NERO(group, metrics=["correctness"], consensus=False, keep_outputs=False)
            table = nero.evaluate(candidates, X_held, y_held).table()
            self.scores_ = dict(zip(table["model"], map(float, table["mean"])))
        self.chosen_ = max(self.scores_, key=lambda name: self.scores_[name])
        self.model_ = candidates[self.chosen_]
        self.classes_, self.input_shape_ = self.model_.classes_, self.model_.input_shape_
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of the chosen classifier, shape (n, classes)."""
        return self.model_.predict_proba(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels that the chosen classifier gives, shape (n,)."""
        return self.model_.predict(X)
