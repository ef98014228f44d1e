"""Few-shot heads on joint labels: new classes from a handful of images, on the features of a trained network."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.core.progress import Progress
from anytask.core.settings import choice, flag, free, real
from anytask.robust.base import RobustClassifier
from anytask.robust.parts.joint_labels import aggregate
from anytask.robust.parts.transformed import TransformedTraining

__all__ = ["FewShotHead"]


def _check_model(model: Any) -> None:
    if not isinstance(model, TransformedTraining):
        raise TypeError(f"model must be SLA or one of its baselines, got {type(model).__name__}")


class FewShotHead(RobustClassifier):
    """Classify new classes by the features of a trained model, from a few support images of each.

    Each support image enters under the model's M transformations, as N M joint classes; a query is scored by the mean
    over its own columns. The network is not trained any further.

    Parameters
    ----------
    model : SLA or one of its baselines
        Fitted, on any classes.
    head : {"cosine", "prototype", "ridge"}, default "cosine"
        ``"cosine"``: similarity to the mean direction of each joint class, divided by ``temperature``;
        ``"prototype"``: minus the squared distance to the mean (Snell et al., 2017); ``"ridge"``: regression on
        the joint labels in closed form (Bertinetto et al., 2019).
    joint : bool, default True
        Whether transformed images are classes of their own; False: the images as they are alone (M = 1).
    temperature : float > 0, default 0.1
        Of the cosine head.
    ridge : float > 0, default 1.0
        Penalty of the ridge head.

    Examples
    --------
    >>> from anytask.robust import SLA
    >>> X, y = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    >>> model = SLA.from_preset("small", steps=5).fit(X, y)
    >>> head = FewShotHead(model).fit(X[:10] + 2, ["new"] * 5 + ["newer"] * 5)
    >>> head.predict(X[:2] + 2).tolist()
    ['new', 'new']
    """

    model: Any = free(attrs.NOTHING, "a fitted SLA, or one of its baselines", _check_model, kw_only=False)
    head: str = choice("cosine", ("cosine", "prototype", "ridge"), "how queries are compared with the support")
    joint: bool = flag(True, "transformed images are classes of their own")
    temperature: float = real(0.1, "of the cosine head", above=0)
    ridge: float = real(1.0, "penalty of the ridge head", above=0)

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` for inputs of another shape than the model learned from."""
        self.model._check_fitted()
        if input_shape != self.model.input_shape_:
            raise ValueError(f"inputs have shape {input_shape}, and the model learned from {self.model.input_shape_}")

    def _train(self, X: Tensor, y: Tensor, progress: Progress) -> None:
        Z, N = self._features(X), len(self.classes_)  # (n, M, D)
        M = Z.shape[1]
        if self.head == "ridge":
            rows = Z.flatten(0, 1)  # (n M, D)
            units = (y[:, None] * M + torch.arange(M, device=y.device)).flatten()
            K = rows @ rows.T + self.ridge * torch.eye(len(rows), device=rows.device)
            self.weights_ = rows.T @ torch.linalg.solve(K, F.one_hot(units, N * M).to(rows.dtype))  # (D, N M)
        else:
            Z = F.normalize(Z, dim=-1) if self.head == "cosine" else Z
            self.prototypes_ = torch.stack([Z[y == c].mean(0) for c in range(N)])  # (N, M, D)
        progress(1.0)

    def _scores(self, X: Tensor) -> Tensor:
        Z = self._features(X)  # (n, M, D)
        if self.head == "ridge":
            return aggregate(Z @ self.weights_)
        if self.head == "cosine":
            cosines = torch.einsum("nmd,cmd->ncm", F.normalize(Z, dim=-1), F.normalize(self.prototypes_, dim=-1))
            return cosines.mean(-1) / self.temperature
        return -(Z[:, None] - self.prototypes_).square().sum(-1).mean(-1)

    def _features(self, X: Tensor) -> Tensor:
        x = self.model.images(X.to(self.model._device))
        js = range(self.model.M if self.joint else 1)
        with torch.no_grad():
            return self.model.f(self.model.expand(x, js)).unflatten(0, (len(x), len(js))).to(X.device)
