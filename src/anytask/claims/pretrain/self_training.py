"""Self-training by scikit-learn around a logistic regression: a rival that looks at inputs without labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import SelfTrainingClassifier


class SelfTraining(ClassifierMixin, BaseEstimator):
    """A logistic regression that takes its own confident answers for labels."""

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Self:
        """Learn from labelled inputs, and from others without."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        plain = LogisticRegression(max_iter=1000)
        if unlabeled is None:
            self.model_ = plain.fit(np.asarray(X).reshape(len(X), -1), codes)
            return self
        inputs = np.concatenate([np.asarray(X), np.asarray(unlabeled)])
        codes = np.concatenate([codes, np.full(len(unlabeled), -1)])
        self.model_ = SelfTrainingClassifier(plain, threshold=0.9).fit(inputs.reshape(len(inputs), -1), codes)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities (n, n_classes)."""
        return self.model_.predict_proba(np.asarray(X).reshape(len(X), -1))
