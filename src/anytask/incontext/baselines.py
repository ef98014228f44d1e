"""What in-context learning has to beat: a classifier trained on the same few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from anytask.core.checks import check_labels
from anytask.core.estimator import Fitted
from anytask.core.settings import real
from anytask.incontext.base import check_answers, check_queries
from anytask.incontext.pool import embed, embedder_field
from anytask.lm.protocol import check_texts
from anytask.lm.search import as_vectors


class EmbeddingClassifier(Fitted):
    """Logistic regression on sentence embeddings of the labelled texts; no language model takes part.

    The plain alternative when labels are few and texts are short: fast, calibrated, and often hard to beat.

    Parameters
    ----------
    embedder : str, path or anytask.lm.Embedder, default "minilm"
        The packaged MiniLM, or see :class:`~anytask.lm.Embedder`.
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

    embedder: Any = embedder_field()
    C: float = real(10.0, "inverse strength of the L2 penalty", above=0)

    def fit(self, X: Sequence[str], y: Sequence[str]) -> Self:
        """Train on labelled texts; a single label is then the answer to everything."""
        X, y = check_texts(X, "X"), check_labels(check_answers(y, "y")).tolist()
        if not X or len(X) != len(y):
            raise ValueError(f"X and y must have equal lengths of at least 1, got {len(X)} texts and {len(y)} labels")
        with self._refit():
            self.classes_ = sorted(set(y))
            if len(self.classes_) > 1:
                model = LogisticRegression(
                    C=self.C, class_weight="balanced", max_iter=1000, random_state=self.seed % 2**32
                ).fit(embed(self.embedder, X), y)
                self.coef_, self.intercept_ = model.coef_, model.intercept_
        return self

    def predict(self, X: Sequence[str]) -> list[str]:
        """Return the most probable label of each text."""
        return [self.classes_[i] for i in self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Return the probability of each of ``classes_``, shape (n, n_classes)."""
        self._check_fitted()
        X = check_queries(X, "X")
        if len(self.classes_) == 1:
            return np.ones((len(X), 1))
        vectors = as_vectors(embed(self.embedder, X), "the embedding of the texts", self.coef_.shape[1])
        z = vectors @ self.coef_.T + self.intercept_  # (n, n_classes), one column for two classes
        return softmax(np.hstack([np.zeros_like(z), z]) if len(self.classes_) == 2 else z, axis=1)
