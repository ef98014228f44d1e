"""What multi-task learners are compared with: a model for each task, of trees, lines or a network, and LightGBM."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeCV
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.core.progress import Progress, portion
from anytask.core.settings import choice, real, whole
from anytask.multitask.base import Cells, MultiTaskEstimator
from anytask.multitask.parts.trees import Binned, Grower, empty_forest, summed
from anytask.multitask.shared_trunk import SharedTrunk, Trunk
from anytask.parts.boosting import booster, lightgbm

__all__ = ["BoostingPerTask", "LinearPerTask", "NetworkPerTask"]


class PerTask(MultiTaskEstimator):
    """Base of the models that are fitted to each task alone: a subclass writes ``_fit_task`` and ``_score``.

    Attributes
    ----------
    models_ : list
        A state for each task, of plain values and arrays.
    """

    def _train(self, cells: Cells, progress: Progress) -> None:
        X, row, task, y = cells.arrays()
        self.models_ = []
        for code in range(len(self.tasks_)):
            own = task == code
            self.models_.append(self._fit_task(X[row[own]], y[own], self._width(code)))
            progress((code + 1) / len(self.tasks_))

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        x = X.flatten(1).cpu().numpy()
        return [torch.from_numpy(np.asarray(self._score(x, self.models_[code], self._width(code)))) for code in codes]

    def _fit_task(self, X: np.ndarray, y: np.ndarray, K: int) -> Any:
        """Return the state of a model of X (n, d) and targets y (n,), places among K classes if K > 1."""
        raise NotImplementedError

    def _score(self, X: np.ndarray, model: Any, K: int) -> np.ndarray:
        """Return numbers (n, 1) or logits (n, K)."""
        raise NotImplementedError


class BoostingPerTask(PerTask):
    """Gradient boosting for each task alone, as R-MTGB's third block does it.

    Parameters
    ----------
    rounds : int, default 200
    lr : float, default 0.1
    max_leaf_nodes : int, default 2
        Of a tree; 2 is a stump.
    max_bins : int or None, default 255
    """

    rounds: int = whole(200, "trees of each task")
    lr: float = real(0.1, "shrinkage of each tree", above=0)
    max_leaf_nodes: int = whole(2, "leaves of a tree", at_least=2)
    max_bins: int | None = whole(255, "bins of each feature; None: one per value", at_least=2, optional=True)

    def _fit_task(self, X: np.ndarray, y: np.ndarray, K: int) -> Any:
        forest, grower = empty_forest(self.rounds, self.max_leaf_nodes, K), Grower(self.max_leaf_nodes)
        target, data = y[:, None] if K == 1 else np.eye(K)[y.astype(int)], Binned(X, self.max_bins)
        F, features = np.zeros_like(target), np.arange(X.shape[1])
        for m in range(self.rounds):
            r = target - (F if K == 1 else softmax(F, axis=1))
            F = F + self.lr * grower.grow(forest, m, data, r, None, features)
        require_finite(forest["value"], "a leaf's value", "lower lr, or check the scale of the targets")
        return forest

    def _score(self, X: np.ndarray, model: Any, K: int) -> np.ndarray:
        return self.lr * summed(model, X)


class LinearPerTask(PerTask):
    """Ridge regression, its strength chosen by leave-one-out, or logistic regression, for each task alone."""

    def _fit_task(self, X: np.ndarray, y: np.ndarray, K: int) -> Any:
        mean, std = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1)
        Z, W, b = (X - mean) / std, np.zeros((K, X.shape[1])), np.zeros(K)
        if K == 1:
            ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(Z, y) if len(y) > 1 else None
            W[0], b[0] = (0, y.mean()) if ridge is None else (ridge.coef_, ridge.intercept_)
        else:
            seen = np.unique(y).astype(int)
            b[:] = -1e3  # classes that this task does not have
            b[seen] = 0
            if len(seen) > 1:
                logistic = LogisticRegression(max_iter=1000).fit(Z, y)
                coefficients, offsets = logistic.coef_, logistic.intercept_
                if len(seen) == 2:
                    coefficients, offsets = np.stack([0 * coefficients[0], coefficients[0]]), np.append(0, offsets)
                W[seen], b[seen] = coefficients, offsets
        W = W / std
        return {"W": W, "b": b - W @ mean}

    def _score(self, X: np.ndarray, model: Any, K: int) -> np.ndarray:
        return X @ model["W"].T + model["b"]


class NetworkPerTask(SharedTrunk):
    """The network of SharedTrunk for each task alone, on batches of its own rows: what sharing is to be better than.

    Parameters
    ----------
    backbone, hidden, n_features, scale_inputs, balancer, lr, epochs, batch_size, max_steps, standardize, seed, device
        Of each network; see :class:`~anytask.multitask.SharedTrunk`. There is nothing to balance.
    """

    def _build(self) -> None:
        super()._build()
        trunk = self.__dict__.pop("trunk_")
        self.trunks_ = nn.ModuleList(copy.deepcopy(trunk) for _ in self.tasks_)

    def _train(self, cells: Cells, progress: Progress) -> None:
        n = len(self.trunks_)
        for code, trunk in enumerate(self.trunks_):
            own = cells.task == code
            alone = Cells(cells.X, cells.row[own], cells.task[own], cells.y[own])
            self.trunk_ = cast(Trunk, trunk)
            super()._train(alone, portion(progress, code / n, (code + 1) / n))
        del self.trunk_

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        return [self.heads_[code](self.trunks_[code](X)) for code in codes]


class LightGBMTasks(MultiTaskEstimator):
    """LightGBM for each task alone, or for all rows with the task as a categorical feature.

    Parameters
    ----------
    how : {"each", "feature"}, default "each"
        With ``"feature"`` the tasks have to be of one kind and one set of classes.
    rounds : int, default 100
    lr : float, default 0.1
    max_leaf_nodes : int, default 31
    min_samples_leaf : int, default 20

    Attributes
    ----------
    models_ : list of str
        The boosters, as text.

    Raises
    ------
    ImportError
        Where LightGBM is missing.
    """

    how: str = choice("each", ("each", "feature"), "a model for each task, or the task as a feature")
    rounds: int = whole(100, "trees of a model")
    lr: float = real(0.1, "shrinkage of each tree", above=0)
    max_leaf_nodes: int = whole(31, "leaves of a tree", at_least=2)
    min_samples_leaf: int = whole(20, "least rows in a leaf")

    def _check_settings(self) -> None:
        lightgbm()

    @property
    def alike(self) -> bool:  # type: ignore[override]
        """Whether all tasks have to be of one kind: where they share a model."""
        return self.how == "feature"

    def _train(self, cells: Cells, progress: Progress) -> None:
        package = lightgbm()
        X, row, task, y = cells.arrays()
        groups = [np.ones(len(y), bool)] if self.alike else [task == code for code in range(len(self.tasks_))]
        self.models_: list[str] = []
        for code, own in enumerate(groups):
            K = self._width(code)
            params = {
                "objective": "regression" if K == 1 else "multiclass", **({} if K == 1 else {"num_class": K}),
                "learning_rate": self.lr, "num_leaves": self.max_leaf_nodes, "min_data_in_leaf": self.min_samples_leaf,
                "seed": self.seed % 2**31, "verbosity": -1, "deterministic": True,
                "num_threads": torch.get_num_threads(),
            }  # fmt: skip
            inputs = np.column_stack([X[row[own]], task[own]]) if self.alike else X[row[own]]
            categories = [X.shape[1]] if self.alike else "auto"
            data = package.Dataset(inputs, y[own], categorical_feature=categories)
            self.models_.append(package.train(params, data, self.rounds).model_to_string())
            progress((code + 1) / len(groups))

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        x, found = X.flatten(1).cpu().numpy(), []
        for code in codes:
            inputs = np.column_stack([x, np.full(len(x), code)]) if self.alike else x
            scores = booster(self.models_[0 if self.alike else code]).predict(inputs, raw_score=True, num_threads=1)
            found.append(torch.from_numpy(scores if scores.ndim == 2 else scores[:, None]))
        return found
