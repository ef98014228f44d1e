"""R-MTGB: robust multi-task gradient boosting, which finds the tasks that do not belong to the others (2025).

The score of an input x of task t is the sum of four ensembles of trees,

    F = p_meta(x) + sigma(theta_t) p_out(x) + (1 - sigma(theta_t)) p_non(x) + p_t(x),

grown one block after the other, each tree on the negative gradient r of the loss: y - F, or the label's indicator minus
the softmax of F. Block 1 grows p_meta on all tasks. In each round of block 2, p_out gets a tree grown on r sigma(theta)
and p_non one on r (1 - sigma(theta)), and theta_t takes a gradient step on the summed loss of its task,

    dL_t / dtheta_t = - sum over rows i of t and outputs k of r_ik sigma (1 - sigma) (p_out - p_non)_ik.

Block 3 grows p_t on the rows of task t alone.

Departures from the paper
-------------------------
* The defaults are 20, 140 and 40 rounds. The released code's 100, 1 and 1 leave theta at its random start, since the
  first round cannot move it (p_out = p_non = 0); they are the preset ``paper``.
* ``theta`` starts from the estimator's own seed, one draw for each sorted task; the released code uses NumPy's global
  generator. It stays within ``max_theta``, beyond which its gradient would vanish for good.
* Which ensemble becomes p_out depends on that start. :attr:`RMTGB.outlier_score_` is turned so that the smaller group
  of tasks are the outliers.
* Queries find their task by its id. The released code numbers the tasks of the test set anew, which mixes them up where
  one is absent.
* Trees are grown on histograms of ``max_bins`` bins. The trees of scikit-learn, which the released code fits anew in
  each round, are equal to those with ``max_bins=None``. Gradients of LightGBM and of scikit-learn's histogram boosting
  are set within one ensemble; here two trees share a round's gradient, which their public interfaces do not offer.
* Targets are standardised, per column of y, since all scores start at 0. Per task it would hide outliers that differ in
  scale.
* Tasks of fewer than ``min_task_rows`` rows get no trees of their own, which would learn them by heart.
* New tasks are answered as an average task of the larger group, without trees of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax
from torch import Tensor

from anytask.core.checks import require_finite
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import choice, real, whole
from anytask.multitask.base import Cells, MultiTaskEstimator
from anytask.multitask.parts.trees import Binned, Grower, contributed, empty_forest, summed

__all__ = ["RMTGB"]

_FEW = 10  # rounds of block 2 below which theta hardly leaves its start


class RMTGB(MultiTaskEstimator):
    """Gradient boosting for several tasks of which some may be outliers, with an outlier score for each task.

    Trees are shared by all tasks, by the members of two groups that are found in training, and by nobody. Pick it for a
    table of several similar tasks (shops, patients, machines) with some hundred rows each, of which a few may follow
    another rule; where each has thousands of rows, one model per task does as well. LightGBM with the task as a
    feature, and on the real tables tried a linear model for each task, erred less: compare. Tasks are either all
    regression or all classification with the same classes.

    ``RMTGB(shared_rounds=n, partition_rounds=0, task_rounds=0)`` is plain gradient boosting on all rows,
    ``(0, 0, n)`` one model per task, and ``(n, 0, m)`` boosting in two blocks without groups.

    Parameters
    ----------
    shared_rounds, partition_rounds, task_rounds : int, default 20, 140, 40
        Rounds of the three blocks; 0 leaves a block out.
    lr : float, default 0.1
        Shrinkage of each tree.
    theta_lr : float or None, default None
        Step on theta; ``lr`` unless given; 0 leaves theta at its start.
    theta_grad : {"sum", "mean"}, default "sum"
        The loss whose gradient theta follows: of all rows of the task, or per row.
    max_theta : float or None, default 10
        Bound of ``|theta|``; None for none.
    max_leaf_nodes, max_depth, min_samples_leaf : int, default 2, None, 1
        Of a tree, grown best first; two leaves are a stump.
    max_bins : int or None, default 255
        Bins of each feature; None for one per value, which is exact and slower.
    subsample, max_features : float, default 1
        Share of the rows drawn for each round, and of the features for each tree.
    min_task_rows : int, default 5
        Least rows for trees of a task's own.
    standardize, seed, device
        See :class:`~anytask.multitask.base.MultiTaskEstimator`; the device is not used.

    Attributes
    ----------
    theta_ : ndarray of shape (n_tasks,)
    outlier_score_ : ndarray of shape (n_tasks,)
        In (0, 1); above 1/2 for the smaller group.
    rows_ : ndarray of shape (n_tasks,)
        Labelled rows of each task.

    Examples
    --------
    Five tasks follow one rule, and the last its opposite:

    >>> rng = np.random.default_rng(0)
    >>> X, task = rng.uniform(-1, 1, size=(600, 2)), np.repeat(list("abcdef"), 100)
    >>> y = np.where(task == "f", -1, 1) * np.sin(3 * X[:, 0])
    >>> model = RMTGB().fit(X, y, task)
    >>> model.outlier_report().query("outlier").task.tolist()
    ['f']
    >>> model.feature_importances(X, "f").round(1).tolist()
    [1.0, 0.0]

    References
    ----------
    "Robust-Multi-Task Gradient Boosting", 2025, released code GAA-UAM/R-MTGB.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"max_bins": None},
        "paper": {
            "shared_rounds": 100, "partition_rounds": 1, "task_rounds": 1, "max_theta": None, "max_bins": None,
            "min_task_rows": 1, "standardize": False,
        },
    }  # fmt: skip
    alike: ClassVar[bool] = True
    new_tasks: ClassVar[bool] = True
    _new_task: ClassVar[str] = "answered as an average task of the larger group"

    shared_rounds: int = whole(20, "rounds of trees shared by all tasks", at_least=0)
    partition_rounds: int = whole(140, "rounds of the two groups' trees", at_least=0)
    task_rounds: int = whole(40, "rounds of the trees of each task", at_least=0)
    lr: float = real(0.1, "shrinkage of each tree", above=0)
    theta_lr: float | None = real(None, "step on theta; None: lr, 0: theta stays", at_least=0, optional=True)
    theta_grad: str = choice("sum", ("sum", "mean"), "theta follows the gradient of the task's loss, or of its mean")
    max_theta: float | None = real(10.0, "bound of theta on both sides of 0; None: none", above=0, optional=True)
    max_leaf_nodes: int = whole(2, "leaves of a tree", at_least=2)
    max_depth: int | None = whole(None, "depth of a tree; None: any", optional=True)
    min_samples_leaf: int = whole(1, "least rows in a leaf")
    max_bins: int | None = whole(255, "bins of each feature; None: one per value", at_least=2, optional=True)
    subsample: float = real(1.0, "share of the rows drawn for each round", above=0, at_most=1)
    max_features: float = real(1.0, "share of the features drawn for each tree", above=0, at_most=1)
    min_task_rows: int = whole(5, "least rows for trees of a task's own")

    def _check_settings(self) -> None:
        if not self.shared_rounds + self.partition_rounds + self.task_rounds:
            raise ValueError("shared_rounds, partition_rounds and task_rounds are all 0: there is nothing to learn")

    # -- what it knows of the tasks -------------------------------------------------------------------------------

    @property
    def outlier_score_(self) -> np.ndarray:
        """sigma(theta), turned so that it is above 1/2 for the smaller group of tasks (of equal groups: of rows)."""
        self._check_fitted()
        s = expit(self.theta_)
        out = s >= 0.5
        small = (out.sum(), self.rows_[out].sum()) <= ((~out).sum(), self.rows_[~out].sum())
        return s if small else 1 - s

    def outlier_report(self) -> pd.DataFrame:
        """Return a row for each task, outliers first: ``task, rows, theta, score`` and whether it is an ``outlier``.

        Two groups are formed of whatever tasks there are: where none stands apart, the smaller one is named all the
        same, with scores near 1/2 or spread between 0 and 1. Without ``partition_rounds`` there are none.
        """
        score = self.outlier_score_
        columns = {"task": self.tasks_, "rows": self.rows_, "theta": self.theta_, "score": score}
        table = pd.DataFrame({**columns, "outlier": score > 0.5})
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def feature_importances(self, X: Any, task: Any = None) -> np.ndarray:
        """Return how much each feature moves the score of a task over some inputs, shape (d,), of sum 1.

        Parameters
        ----------
        X : array of shape (n, ...)
            Several inputs, such as those of the training set.
        task : int or str, optional
            Without it, the mean over the tasks.
        """
        x, each = self._check_query(X).flatten(1).cpu().numpy(), []
        codes = range(len(self.tasks_)) if task is None else self._codes(task, 1).tolist()
        for added in self._scores(contributed, x, codes):  # (n, d, K)
            moved = np.sqrt(added.var(axis=0).sum(axis=1))
            each.append(moved / max(moved.sum(), 1e-300))
        return np.mean(each, axis=0)

    # -- the method -----------------------------------------------------------------------------------------------

    def _train(self, cells: Cells, progress: Progress) -> None:
        if 0 < self.partition_rounds < _FEW:
            rounds = self.partition_rounds
            message = f"partition_rounds={rounds} leaves theta near its random start, the first round cannot move it"
            warnings.warn(f"{message}: use at least {_FEW}, or 0", stacklevel=4)
        self._rng = np.random.default_rng(derive(self.seed, "r-mtgb"))
        x, row, t, y = cells.arrays()
        X, T, K = x[row], len(self.tasks_), self._width(0)
        self.rows_ = np.bincount(t, minlength=T)
        self.theta_ = 0.1 * self._rng.standard_normal(T) * (self.partition_rounds > 0)  # else there are no groups
        n1, n2, n3 = self.shared_rounds, self.partition_rounds, self.task_rounds
        leaves = min(self.max_leaf_nodes, max(2, len(y)))
        self.meta_, self.out_, self.non_, self.own_ = (empty_forest(trees, leaves, K) for trees in (n1, n2, n2, n3 * T))
        target, total = (y[:, None] if K == 1 else np.eye(K)[y.astype(int)]), n1 + n2 + n3
        grower = Grower(leaves, self.max_depth, self.min_samples_leaf)
        data = Binned(X if n1 + n2 else X[:1], self.max_bins)
        p_meta, p_out, p_non = np.zeros((3, len(y), K))
        for m in range(n1):  # block 1
            r = self._residual(target, p_meta)
            p_meta = p_meta + self.lr * grower.grow(self.meta_, m, data, r, *self._drawn(len(y), 1))
            progress((m + 1) / total)
        for m in range(n2):  # block 2
            s = expit(self.theta_)[t][:, None]
            r = self._residual(target, p_meta + s * p_out + (1 - s) * p_non)
            rows, *features = self._drawn(len(y), 2)
            tree_out = grower.grow(self.out_, m, data, r * s, rows, features[0])
            tree_non = grower.grow(self.non_, m, data, r * (1 - s), rows, features[1])
            self._step_theta(r, p_out - p_non, t)
            p_out, p_non = p_out + self.lr * tree_out, p_non + self.lr * tree_non
            progress((n1 + m + 1) / total)
        s = expit(self.theta_)[t][:, None]
        F = p_meta + s * p_out + (1 - s) * p_non
        members = np.split(np.argsort(t, kind="stable"), np.cumsum(self.rows_)[:-1])
        for code, own in enumerate(members if n3 else ()):  # block 3
            if len(own) >= self.min_task_rows:
                p, data_t = F[own], Binned(X[own], self.max_bins)
                for m in range(code * n3, (code + 1) * n3):
                    r = self._residual(target[own], p)
                    p = p + self.lr * grower.grow(self.own_, m, data_t, r, *self._drawn(len(own), 1))
            progress((n1 + n2 + n3 * (code + 1) / T) / total)
        for forest in (self.meta_, self.out_, self.non_, self.own_):
            require_finite(forest["value"], "a leaf's value", "lower lr, or check the scale of the targets")

    def _residual(self, target: np.ndarray, F: np.ndarray) -> np.ndarray:
        """Return the negative gradient r (n, K) of half the squared error, or of the cross-entropy."""
        return target - (F if self.classes_[0] is None else softmax(F, axis=1))

    def _step_theta(self, r: np.ndarray, difference: np.ndarray, t: np.ndarray) -> None:
        """Move theta against its gradient; ``difference`` is p_out - p_non (n, K) before this round's trees."""
        s = expit(self.theta_)
        gradient = -s * (1 - s) * np.bincount(t, (r * difference).sum(1), minlength=len(s))
        gradient = gradient / self.rows_ if self.theta_grad == "mean" else gradient
        self.theta_ = self.theta_ - (self.lr if self.theta_lr is None else self.theta_lr) * gradient
        if self.max_theta is not None:
            self.theta_ = self.theta_.clip(-self.max_theta, self.max_theta)

    def _drawn(self, n: int, trees: int) -> tuple[Any, ...]:
        """Return the rows of a round, None for all, and the features of each of its trees."""
        d = self.n_features_in_
        size, width = max(1, round(self.subsample * n)), max(1, round(self.max_features * d))
        rows = None if size == n else np.sort(self._rng.choice(n, size, replace=False))
        return rows, *(np.sort(self._rng.choice(d, width, replace=False)) for _ in range(trees))

    def _weight(self, code: int) -> float:
        """Return sigma(theta) of a task; for a new one, the mean over the larger group."""
        s = expit(self.theta_)
        return float(s[code] if code >= 0 else s[self.outlier_score_ <= 0.5].mean())

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        x = X.flatten(1).cpu().numpy()
        return [torch.from_numpy(F) for F in self._scores(summed, x, codes)]

    def _scores(self, of: Callable[..., np.ndarray], x: np.ndarray, codes: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the four ensembles' weighted sum for each of the tasks, of what a function says of each ensemble."""
        p_meta, p_out, p_non = (of(forest, x) for forest in (self.meta_, self.out_, self.non_))
        n = self.task_rounds
        for code in codes:
            s, own = self._weight(code), slice(code * n, (code + 1) * n) if code >= 0 else slice(0)
            yield self.lr * (p_meta + s * p_out + (1 - s) * p_non + of(self.own_, x, own))
