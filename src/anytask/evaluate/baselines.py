"""Image classifiers that differ in how they meet turned and moved inputs: what an evaluation on orbits compares."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from anytask.core.checks import check_input_shape, check_inputs, check_labels, check_same_length, check_weights
from anytask.core.estimator import Estimator
from anytask.core.rng import derive
from anytask.core.settings import choice, real, whole
from anytask.evaluate.nero import NERO
from anytask.parts.planar_groups import cyclic
from anytask.parts.transforms import Transforms


class PlainMLP(ClassifierMixin, Estimator):
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
    layers_ : list of (W, b)
        Weights (inputs, outputs) and biases of the layers.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4, 4))
    >>> y = (X[:, 0, 0] > 0).astype(int)
    >>> model = PlainMLP(epochs=100).fit(X, y)
    >>> model.predict_proba(X).shape
    (60, 2)
    """

    hidden: int = whole(64, "width of the hidden layer")
    epochs: int = whole(200, "most passes over the data; training stops when the loss does")

    def fit(self, X: Any, y: Any, group: Transforms | None = None, sample_weight: Any = None) -> Self:
        """Learn from images X (n, ...) with labels y (n,), each of which counts as ``sample_weight`` (n,) says.

        ``group`` is for the subclasses that use it.
        """
        X, y, weights = _checked(X, y, sample_weight)
        rows, labels = self._training_set(X, y, group)
        weights = None if weights is None else np.tile(weights, len(rows) // len(X))
        model = self._new_model()
        with self._refit(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is a setting
            model.fit(rows.reshape(len(rows), -1), labels, sample_weight=weights)
            self.classes_, self.input_shape_ = model.classes_, X.shape[1:]
            self.layers_ = list(zip(model.coefs_, model.intercepts_)) if hasattr(model, "coefs_") else [
                (model.coef_.T, model.intercept_)
            ]  # fmt: skip
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, shape (n, classes)."""
        self._check_fitted()
        inputs = check_inputs(X)
        check_input_shape(inputs, self.input_shape_, type(self).__name__)
        h = inputs.cpu().numpy().reshape(len(inputs), -1)
        for W, b in self.layers_[:-1]:
            h = np.maximum(h @ W + b, 0)
        h = h @ self.layers_[-1][0] + self.layers_[-1][1]
        return softmax(h, axis=1) if h.shape[1] > 1 else np.concatenate([1 - expit(h), expit(h)], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable labels, shape (n,)."""
        p = self.predict_proba(X)  # says so if nothing was fitted
        return self.classes_[p.argmax(axis=1)]

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

    hidden: int = whole(128, "width of the hidden layer")
    epochs: int = whole(30, "most passes over the enlarged data")

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
        turned = cyclic(4).orbit(check_inputs(X).cpu().numpy())
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


_CANDIDATES: dict[str, type[PlainMLP]] = {
    "plain MLP": PlainMLP, "augmented MLP": AugmentedMLP, "C4-averaged MLP": C4AveragedMLP, "linear": LinearClassifier,
}  # fmt: skip


class Chosen(ClassifierMixin, Estimator):
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

    by: str = choice("accuracy", ("accuracy", "orbit"), "how the candidates are compared")
    holdout: float = real(0.25, "share of the images that they are compared on", above=0, below=1)

    def fit(self, X: Any, y: Any, group: Transforms | None = None, sample_weight: Any = None) -> Self:
        """Train the candidates on most of (X, y), compare them on the rest, and keep the best.

        Images count as ``sample_weight`` (n,) says, in training and in the comparison.
        """
        if group is None:
            raise ValueError("Chosen needs the group that the candidates may use: fit(X, y, group)")
        X, y, weights = _checked(X, y, sample_weight)
        how: dict[str, Any] = {"random_state": derive(self.seed, "holdout") % 2**32, "stratify": y}
        fit, held = train_test_split(np.arange(len(y)), test_size=self.holdout, **how)
        X_fit, X_held, y_fit, y_held = X[fit], X[held], y[fit], y[held]
        weights_fit, weights_held = (None, None) if weights is None else (weights[fit], weights[held])
        square = X.ndim > 2 and X.shape[-1] == X.shape[-2]
        candidates: dict[str, PlainMLP] = {
            name: cls(seed=self.seed) for name, cls in _CANDIDATES.items() if square or name != "C4-averaged MLP"
        }
        for model in candidates.values():
            model.fit(X_fit, y_fit, group, weights_fit)
        if self.by == "accuracy":
            right = {name: model.predict(X_held) == y_held for name, model in candidates.items()}
            scores = {name: float(np.average(hits, weights=weights_held)) for name, hits in right.items()}
        else:
            nero = NERO(group, metrics=["correctness"], consensus=False, keep_outputs=False)
            result = nero.evaluate(candidates, X_held, y_held)
            curves = np.average(result.values("correctness", "truth"), axis=-1, weights=weights_held)  # (models, m)
            scores = dict(zip(result.models, np.average(curves, axis=1, weights=group.weights).tolist()))
        with self._refit():
            self.scores_, self.chosen_ = scores, max(scores, key=lambda name: scores[name])
            self.model_ = candidates[self.chosen_]
            self.classes_, self.input_shape_ = self.model_.classes_, self.model_.input_shape_
        return self

    def _state(self) -> dict[str, Any]:
        return {"scores": self.scores_, "chosen": self.chosen_, "model": self.model_._state()}

    def _load_state(self, state: Any) -> None:
        self.scores_, self.chosen_ = state["scores"], state["chosen"]
        self.model_ = _CANDIDATES[self.chosen_](seed=self.seed)
        self.model_._load_state(state["model"])
        self.classes_, self.input_shape_ = self.model_.classes_, self.model_.input_shape_

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of the chosen classifier, shape (n, classes)."""
        self._check_fitted()
        return self.model_.predict_proba(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels that the chosen classifier gives, shape (n,)."""
        self._check_fitted()
        return self.model_.predict(X)


def _checked(X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    X, y = check_inputs(X).cpu().numpy(), check_labels(y)
    check_same_length(X, y)
    if len(np.unique(y)) < 2:
        raise ValueError(f"y holds one class alone, {y[0]!r}: there is nothing to tell apart")
    return X, y, None if sample_weight is None else check_weights(sample_weight, len(y))
