"""What in-context learning has to beat: a classifier trained on the same few labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from anytask.core.persistence import load_tree, save_tree


class EmbeddingClassifier:
    """Logistic regression on sentence embeddings of the labelled texts; no language model takes part.

    The plain alternative when labels are few and texts are short: fast, calibrated, and often hard to beat.

    Parameters
    ----------
    embedder : anytask.lm.Embedder, optional
        Default: the packaged MiniLM.
    C : float > 0, default 10.0
        Inverse strength of the L2 penalty. Embeddings have length 1, so scikit-learn's default of 1 would leave the
        answer to the class frequencies when labels are few; classes are weighted alike for the same reason.
    seed : int, default 0

    Examples
    --------
    >>> model = EmbeddingClassifier().fit(["a sad film", "a gloomy movie", "a new phone"], ["film", "film", "phone"])
    >>> model.predict(["a melancholy picture at the cinema"])
    ['film']
    """

    def __init__(self, embedder: Any = None, C: float = 10.0, seed: int = 0) -> None:
        self.embedder, self.C, self.seed = embedder, C, seed

    def fit(self, X: Sequence[str], y: Sequence[str]) -> Self:
        """Train on labelled texts; a single label is then the answer to everything."""
        if not len(X) or len(X) != len(y):
            raise ValueError(f"X and y must have equal lengths of at least 1, got {len(X)} texts and {len(y)} labels")
        if self.embedder is None:
            from anytask.lm.embeddings import Embedder

            self.embedder = Embedder()
        self.classes_ = sorted(set(y))
        if len(self.classes_) > 1:
            vectors = self.embedder.embed(list(X))
            self._model = LogisticRegression(
                C=self.C, class_weight="balanced", max_iter=1000, random_state=self.seed
            ).fit(vectors, list(y))
        return self

    def predict(self, X: Sequence[str]) -> list[str]:
        """Return the most probable label of each text."""
        return [self.classes_[i] for i in self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Return the probability of each of ``classes_``, shape (n, n_classes)."""
        if not hasattr(self, "classes_"):
            raise NotFittedError("this EmbeddingClassifier has seen no labels yet: call fit first")
        if len(self.classes_) == 1:
            return np.ones((len(X), 1))
        return self._model.predict_proba(self.embedder.embed(list(X)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the classifier to ``folder``, but not an embedder that was given."""
        if not hasattr(self, "classes_"):
            raise NotFittedError("this EmbeddingClassifier has seen no labels yet: call fit first")
        weights = None if len(self.classes_) == 1 else (self._model.coef_, self._model.intercept_)
        settings = {"C": self.C, "seed": self.seed}
        save_tree(
            folder, {"class": type(self).__name__, "settings": settings, "labels": self.classes_, "weights": weights}
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], embedder: Any = None) -> Self:
        """Read what :meth:`save` wrote; an embedder that was given has to be given again."""
        tree = load_tree(folder)
        if tree.get("class") != cls.__name__:
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a {cls.__name__}")
        if embedder is None:
            from anytask.lm.embeddings import Embedder

            embedder = Embedder()
        model = cls(embedder, **tree["settings"])
        model.classes_ = tree["labels"]
        if tree["weights"] is not None:
            model._model = LogisticRegression(C=model.C)
            model._model.classes_ = np.array(model.classes_)
            model._model.coef_, model._model.intercept_ = tree["weights"]
        return model
