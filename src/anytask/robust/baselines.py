"""Networks that meet transformations as SLA does not, and a plain rival that looks at inputs without labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor
from torch.nn import functional as F

from anytask.core.checks import check_input_shape, check_inputs
from anytask.core.progress import Progress
from anytask.core.settings import flag, real, whole
from anytask.robust.base import RobustClassifier
from anytask.robust.parts.transformed import TransformedTraining

__all__ = ["PlainTraining", "Spreading", "TransformAugmentation", "TransformMultiTask"]


class PlainTraining(TransformedTraining):
    """Cross-entropy on the images as they are."""

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        return {"u": N}

    def _losses(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        yield F.cross_entropy(self.net_["u"](self.f(x)), y, self._weight)

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

    average: bool = flag(False, "average the logits over the transformations when predicting")

    def _losses(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        yield F.cross_entropy(self.net_["u"](self.f(self.expand(x))), y.repeat_interleave(self.M), self._weight)

    def _scores(self, X: Tensor) -> Tensor:
        x = self.images(X)
        return self._single(self.expand(x)).unflatten(0, (len(x), self.M)).mean(1) if self.average else self._single(x)


class TransformMultiTask(PlainTraining):
    """One head for the class and one for the transformation, on every transformed image."""

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        return {"u": N, "v": M}

    def _losses(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        z = self.f(self.expand(x))
        j = torch.arange(self.M, device=x.device).repeat(len(x))
        class_loss = F.cross_entropy(self.net_["u"](z), y.repeat_interleave(self.M), self._weight)
        yield class_loss + F.cross_entropy(self.net_["v"](z), j)


class Spreading(RobustClassifier):
    """Label spreading over the nearest neighbors of raw inputs, those without labels included (Zhou et al., 2003).

    Parameters
    ----------
    neighbors : int
        Neighbors of each input in the graph, and of a query.
    clamping : float in (0, 1)
        How far a label may be changed by its neighborhood.

    Attributes
    ----------
    inputs_ : ndarray of shape (rows, features)
        Everything the labels spread over.
    shares_ : ndarray of shape (rows, n_classes)
        The labels' shares there.
    """

    neighbors: int = whole(7, "neighbors of each input in the graph")
    clamping: float = real(0.2, "how far a label may be changed by its neighborhood", above=0, below=1)

    def fit(self, X: Any, y: Any, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Spread the labels y (n,) of the inputs X (n, ...) over them and over ``unlabeled`` (m, ...)."""
        self._pool = None if unlabeled is None else check_inputs(unlabeled, "unlabeled")
        try:
            return super().fit(X, y, progress=progress)
        finally:
            del self._pool

    def _train(self, X: Tensor, y: Tensor, progress: Progress) -> None:
        if self._pool is not None:
            check_input_shape(self._pool, self.input_shape_, "unlabeled")
            X = torch.cat([X, self._pool.to(X.device)])
        rows = X.flatten(1).cpu().numpy()
        labels = np.concatenate([y.cpu().numpy(), np.full(len(rows) - len(y), -1)])
        k = min(self.neighbors, len(rows))
        # A tight tolerance: labels have to travel along the graph, one neighbor in each iteration.
        spread = LabelSpreading(kernel="knn", n_neighbors=k, alpha=self.clamping, max_iter=1000, tol=1e-12)
        self.inputs_, self.shares_ = rows, spread.fit(rows, labels).label_distributions_
        progress(1.0)

    def _scores(self, X: Tensor) -> Tensor:
        near = NearestNeighbors(n_neighbors=min(self.neighbors, len(self.inputs_))).fit(self.inputs_)
        shares = self.shares_[near.kneighbors(X.flatten(1).cpu().numpy(), return_distance=False)].mean(1)
        return torch.from_numpy(shares + 1e-6).log()
