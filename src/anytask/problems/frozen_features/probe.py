"""Judge features by what a plain model makes of them with few labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from anytask.core.rng import derive
from anytask.parts.few_label_logistic import ENOUGH, few_label_logistic


def draws(y: np.ndarray, shots: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows with ``shots`` labels of each class, drawn anew each time.

    Examples
    --------
    >>> y = np.array(["a", "b", "a", "b", "a"])
    >>> [sorted(y[rows].tolist()) for rows in draws(y, 2, 1, seed=0)]
    [['a', 'a', 'b', 'b']]
    """
    for place in range(times):
        order = np.random.default_rng(derive(seed, "probe", str(shots), str(place))).permutation(len(y))
        yield np.concatenate([order[y[order] == label][:shots] for label in np.unique(y)])


def probe(
    train: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    y_test: np.ndarray,
    shots: int,
    *,
    weights: np.ndarray | None = None,
    times: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Return the accuracies of a logistic regression and of nearest neighbors, as means over draws of the labels.

    Features are standardized by all of ``train``, which needs no label. The regression's strength is chosen by
    cross-validation on the labelled rows alone, and is 1 where there are fewer than five of each class; there are five
    neighbors, or one where there are fewer than five labels of each class.

    Parameters
    ----------
    train, test : array of shape (n, d) and (m, d)
        Features.
    y, y_test : array of shape (n,) and (m,)
    shots : int
        Labels of each class; every class must have as many.
    weights : array of shape (m,), optional
        How much each row of ``test`` counts.
    times : int
        Draws of the labels.
    seed : int

    Returns
    -------
    dict with ``logistic`` and ``knn``, and, of two classes, ``auc``: the area under the regression's ROC curve

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> F = y[:, None] + 0.1 * rng.normal(size=(200, 3))
    >>> probe(F[:100], y[:100], F[100:], y[100:], shots=1)
    {'logistic': 1.0, 'knn': 1.0, 'auc': 1.0}
    """
    scaler = StandardScaler().fit(train)
    F, F_test = scaler.transform(train), scaler.transform(test)
    found: dict[str, list[float]] = {"logistic": [], "knn": []}
    for rows in draws(y, shots, times, seed):
        neighbors = KNeighborsClassifier(5 if shots >= ENOUGH else 1)
        for name, model in (("logistic", few_label_logistic(y[rows], seed)), ("knn", neighbors)):
            answers = model.fit(F[rows], y[rows]).predict(F_test)
            found[name].append(float(accuracy_score(y_test, answers, sample_weight=weights)))
            if name == "logistic" and len(np.unique(y_test)) == len(model.classes_) == 2:
                ranking = model.decision_function(F_test)
                auc = roc_auc_score(y_test == model.classes_[1], ranking, sample_weight=weights)
                found.setdefault("auc", []).append(float(auc))
    return {name: float(np.mean(values)) for name, values in found.items()}
