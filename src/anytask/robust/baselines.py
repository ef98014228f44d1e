"""Networks that meet transformations as SLA does not, and a plain rival that looks at inputs without labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from sklearn.neighbors import NearestNeighbors, kneighbors_graph
from torch import Tensor

from anytask.core.checks import check_inputs
from anytask.core.progress import Progress
from anytask.core.settings import flag, real, whole
from anytask.robust.base import RobustClassifier
from anytask.robust.parts.transformed import TransformedTraining, cross_entropy

__all__ = ["PlainTraining", "Spreading", "TransformAugmentation", "TransformMultiTask"]


class PlainTraining(TransformedTraining):
    """Cross-entropy on the images as they are."""

    transforms: Any = "identity"

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        return {"u": N}

    def _losses(self, x: Tensor, y: Tensor, w: Tensor | None = None) -> Iterator[Tensor]:
        yield cross_entropy(self.net_["u"](self.f(x)), y, self._weight, w)

    def _scores(self, X: Tensor) -> Tensor:
        return self._single(self.images(X))

    def _single(self, x: Tensor) -> Tensor:
        return self.net_["u"](self.f(x))


class TransformAugmentation(PlainTraining):
    """Cross-entropy on every transformed image, all with the label of the original.

    Parameters
    ----------
    average : bool
        Predict by the mean logits over the transformed images; may be changed after training.
    """

    INFERENCE: ClassVar = ("average",)

    transforms: Any = "rotations"
    average: bool = flag(False, "average the logits over the transformations when predicting")

    def _losses(self, x: Tensor, y: Tensor, w: Tensor | None = None) -> Iterator[Tensor]:
        yield cross_entropy(self.net_["u"](self.f(self.expand(x))), y.repeat_interleave(self.M), self._weight, w)

    def _scores(self, X: Tensor) -> Tensor:
        x = self.images(X)
        return self._single(self.expand(x)).unflatten(0, (len(x), self.M)).mean(1) if self.average else self._single(x)


class TransformMultiTask(PlainTraining):
    """One head for the class and one for the transformation, on every transformed image."""

    transforms: Any = "rotations"

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        return {"u": N, "v": M}

    def _losses(self, x: Tensor, y: Tensor, w: Tensor | None = None) -> Iterator[Tensor]:
        z = self.f(self.expand(x))
        j = torch.arange(self.M, device=x.device).repeat(len(x))
        class_loss = cross_entropy(self.net_["u"](z), y.repeat_interleave(self.M), self._weight, w)
        yield class_loss + cross_entropy(self.net_["v"](z), j, None, w)


class Spreading(RobustClassifier):
    """Label spreading over the nearest neighbors of raw inputs, those without labels included (Zhou et al., 2003).

    Parameters
    ----------
    neighbors : int
        Neighbors of each input in the graph, and of a query.
    alpha : float in (0, 1)
        Weight of the neighborhood against the given labels.
    standardize : bool
        Standardize the values by all inputs, as columns of a table in several units need it.

    Attributes
    ----------
    inputs_ : ndarray of shape (rows, features)
        Everything the labels spread over, each column divided by ``scale_``.
    shares_ : ndarray of shape (rows, n_classes)
        The labels' shares there.
    """

    neighbors: int = whole(7, "neighbors of each input in the graph, and of a query")
    alpha: float = real(0.99, "weight of the neighborhood against the given labels", above=0, below=1)
    standardize: bool = flag(False, "standardize the values by all inputs")

    def fit(
        self, X: Any, y: Any, *, unlabeled: Any = None, sample_weight: Any = None, progress: Progress | None = None
    ) -> Self:
        """Spread the labels y (n,) of the inputs X (n, ...), by their weights, over them and ``unlabeled`` (m, ...)."""
        self._pool = None if unlabeled is None else check_inputs(unlabeled, "unlabeled")
        try:
            return super().fit(X, y, sample_weight=sample_weight, progress=progress)
        finally:
            del self._pool

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        if self._pool is not None:
            if tuple(self._pool.shape[1:]) != self.input_shape_:
                shape = tuple(self._pool.shape[1:])
                raise ValueError(f"unlabeled holds inputs of shape {shape}, and X of shape {self.input_shape_}")
            X = torch.cat([X, self._pool.to(X.device)])
        rows = X.flatten(1).double().cpu().numpy()
        std = rows.std(axis=0)
        self.scale_ = np.where(std > 0, std, 1.0) if self.standardize else np.ones(rows.shape[1])
        rows = rows / self.scale_
        Y = np.zeros((len(rows), len(self.classes_)))
        Y[np.arange(len(y)), y.cpu().numpy()] = 1 if w is None else w.cpu().numpy()
        near = kneighbors_graph(rows, min(self.neighbors, len(rows) - 1))
        W = near.maximum(near.T)  # symmetric, the rows themselves left out
        d = 1 / np.sqrt(np.asarray(W.sum(axis=1)).ravel())
        S = W.multiply(d[:, None]).multiply(d[None, :])
        F = splu((sparse.eye(len(rows)) - self.alpha * S).tocsc()).solve(Y)  # the limit of the spreading
        total = F.sum(axis=1, keepdims=True)
        self.inputs_ = rows
        self.shares_ = np.where(total > 1e-12, F / np.maximum(total, 1e-12), 1 / len(self.classes_))
        progress(1.0)

    def _scores(self, X: Tensor) -> Tensor:
        near = NearestNeighbors(n_neighbors=min(self.neighbors, len(self.inputs_))).fit(self.inputs_)
        distances, places = near.kneighbors(X.flatten(1).double().cpu().numpy() / self.scale_)
        weights = 1 / np.maximum(distances, 1e-9)
        shares = (self.shares_[places] * (weights / weights.sum(axis=1, keepdims=True))[:, :, None]).sum(axis=1)
        return torch.from_numpy(shares + 1e-6).log()
