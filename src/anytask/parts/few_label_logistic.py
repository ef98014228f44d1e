"""A logistic regression for few labels: its strength is chosen where there are labels to choose by."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from anytask.core.rng import derive

#: Inverse strengths of the regularization among which is chosen.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
#: Labels of each class from which on a strength is chosen, by three-fold cross-validation.
ENOUGH = 5


def few_label_logistic(y: np.ndarray, seed: int) -> Any:
    """Return an unfitted logistic regression for labels y (n,): of strength 1 where a class has fewer than five.

    Examples
    --------
    >>> few_label_logistic(np.arange(8) % 2, seed=0)
    LogisticRegression(max_iter=1000)
    >>> type(few_label_logistic(np.arange(10) % 2, seed=0)).__name__
    'GridSearchCV'
    """
    plain = LogisticRegression(max_iter=1000)
    if np.unique(y, return_counts=True)[1].min() < ENOUGH:
        return plain
    folds = StratifiedKFold(3, shuffle=True, random_state=derive(seed, "folds") % 2**32)
    return GridSearchCV(plain, {"C": STRENGTHS}, cv=folds)
