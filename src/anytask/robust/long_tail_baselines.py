"""What long tails are met with: losses that know the prior, sampling, a prior that is estimated, and LightGBM."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from anytask.core.progress import Progress, heard
from anytask.core.settings import choice, flag, real, whole
from anytask.parts.boosting import booster, lightgbm
from anytask.robust.base import RobustClassifier
from anytask.robust.parts.branches import BranchTraining

__all__ = ["LongTailTraining", "PriorEstimation", "WeightedTrees"]

_WAYS = ("cross-entropy", "logit adjustment", "class weights", "balanced sampling")


class LongTailTraining(BranchTraining):
    """One network for a long tail: cross-entropy as it is, or made even in one of the usual ways.

    Parameters
    ----------
    way : {"cross-entropy", "logit adjustment", "class weights", "balanced sampling"}
        Log shares of the classes on the logits in training, weights inverse to the shares, or inputs drawn so that all
        classes come equally often.
    branches : int, default 1
        So many of them on the stem, whose logits are averaged.
    """

    PRESETS: ClassVar = {"small": {"steps": 1200}}

    way: str = choice("cross-entropy", _WAYS, "how rare classes are met")
    branches: int = whole(1, "branches on the stem, whose logits are averaged")

    def _n_branches(self) -> int:
        return self.branches

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.way == "logit adjustment":
            logits = logits + self.prior_.log()
        weight = 1 / (len(self.prior_) * self.prior_) if self.way == "class weights" else None
        each = F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(self.branches), weight, reduction="none")
        return each.view(len(y), -1).sum(1)

    def _chances(self, y: Tensor) -> Tensor | None:
        return 1 / torch.bincount(y)[y] if self.way == "balanced sampling" else None


class PriorEstimation(LongTailTraining):
    """One network whose answers are moved to class frequencies that are estimated on the test inputs, without labels.

    Expectation-maximisation by Saerens, Latinne and Decaestecker (2002): probabilities say how frequent the classes
    are, and frequencies say what probabilities should be.

    Parameters
    ----------
    rounds : int, default 200
        At most so many rounds of expectation and maximisation.

    Attributes
    ----------
    shares_ : list of float
        The estimated frequencies; those that the network learned for before :meth:`adapt`.
    """

    INFERENCE: ClassVar = ("rounds",)

    rounds: int = whole(200, "rounds of estimation at most")

    def adapt(self, X: ArrayLike | Tensor) -> Self:
        """Estimate the class frequencies of inputs X (n, ...) without labels."""
        X_ = self._asked(X)
        with torch.no_grad():
            P = torch.cat([self.net_(part.to(self._device)).mean(1) for part in X_.split(1024)]).double().softmax(1)
        base = self._learned_for().double()
        q = base
        for _ in range(self.rounds):
            R = P * (q / base)
            new = (R / R.sum(1, keepdim=True)).mean(0).clamp(min=1e-9)
            done = bool((new - q).abs().max() < 1e-7)
            q = new / new.sum()
            if done:
                break
        self.shares_ = q.tolist()
        return self

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        super()._train(X, y, w, progress)
        self.shares_ = self._learned_for().tolist()

    def _learned_for(self) -> Tensor:
        """Return the class frequencies that the network's answers are right for."""
        return self.prior_ if self.way == "cross-entropy" else torch.full_like(self.prior_, 1 / len(self.prior_))

    def _scores(self, X: Tensor) -> Tensor:
        q = torch.tensor(self.shares_, device=X.device)
        return self.net_(X).mean(1) + q.log() - self._learned_for().log()


class WeightedTrees(RobustClassifier):
    """LightGBM on the values of the inputs.

    Parameters
    ----------
    balanced : bool, default True
        Weigh inputs inversely to the share of their class.
    rounds, max_leaf_nodes, min_samples_leaf : int, default 100, 31 and 5
    lr : float, default 0.1

    Attributes
    ----------
    model_ : str
        The booster, as text.

    Raises
    ------
    ImportError
        Where LightGBM is missing.
    """

    balanced: bool = flag(True, "weigh inputs inversely to the share of their class")
    rounds: int = whole(100, "trees of each class")
    max_leaf_nodes: int = whole(31, "leaves of a tree", at_least=2)
    min_samples_leaf: int = whole(5, "least inputs in a leaf")
    lr: float = real(0.1, "shrinkage of each tree", above=0)

    def _check_settings(self) -> None:
        lightgbm()

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        labels = y.cpu().numpy()
        weights = np.ones(len(labels)) if w is None else w.cpu().numpy().astype(float)
        if self.balanced:
            weights = weights / np.bincount(labels, weights)[labels]
            weights /= weights.mean()
        params: dict[str, Any] = {
            "objective": "multiclass", "num_class": len(self.classes_), "learning_rate": self.lr,
            "num_leaves": self.max_leaf_nodes, "min_data_in_leaf": self.min_samples_leaf, "seed": self.seed % 2**31,
            "verbosity": -1, "deterministic": True, "num_threads": torch.get_num_threads(),
        }  # fmt: skip
        package, told = lightgbm(), heard(progress)
        data = package.Dataset(X.flatten(1).cpu().numpy(), labels, weight=weights)
        self.model_: str = package.train(
            params, data, self.rounds, callbacks=[lambda state: told((state.iteration + 1) / self.rounds)]
        ).model_to_string()

    def _scores(self, X: Tensor) -> Tensor:
        scores = booster(self.model_).predict(X.flatten(1).cpu().numpy(), raw_score=True, num_threads=1)
        return torch.from_numpy(scores)
