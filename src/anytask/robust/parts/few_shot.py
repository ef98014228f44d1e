"""Few-shot heads on joint labels: new classes from a handful of images, on the features of a trained network."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.core.checks import check_sizes
from anytask.core.progress import Progress
from anytask.core.settings import choice, flag, free, positional, real
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
        Fitted, on any classes. A head keeps a copy of it, and saves itself without it: ``load(folder, model=...)``.
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

    INFERENCE: ClassVar = ("temperature",)

    model: Any = positional(free, "a fitted SLA, or one of its baselines", _check_model, kw_only=False)
    head: str = choice("cosine", ("cosine", "prototype", "ridge"), "how queries are compared with the support")
    joint: bool = flag(True, "transformed images are classes of their own")
    temperature: float = real(0.1, "of the cosine head", above=0)
    ridge: float = real(1.0, "penalty of the ridge head", above=0)

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` for inputs of another shape than the model learned from."""
        self.model._check_fitted()
        self.model._check_shape_kept()
        check_sizes(input_shape, "input_shape")
        if input_shape != self.model.input_shape_:
            raise ValueError(f"inputs have shape {input_shape}, and the model learned from {self.model.input_shape_}")

    def __sklearn_clone__(self) -> Self:
        # The trained model is a setting here, and a clone's is the same one.
        return type(self)(**{name: getattr(self, name) for name in self._param_names()})

    def _build(self) -> None:
        # A copy, so that the head stays as it is when the model learns on.
        self._model = copy.deepcopy(self.model)
        self.check_shape(self.input_shape_)

    def _load_state(self, state: Any) -> None:
        super()._load_state(state)
        joint = self.weights_.shape[1] if self.head == "ridge" else self.prototypes_.shape[:2].numel()
        width = self.weights_.shape[0] if self.head == "ridge" else self.prototypes_.shape[2]
        if (joint, width) != (len(self.classes_) * self._M, self._model.feature_dim):
            raise ValueError(f"the head was fitted on {width} features and {joint} joint classes: model is another one")

    @property
    def _M(self) -> int:
        return self._model.M if self.joint else 1

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        Z, N = self._features(X), len(self.classes_)  # (n, M, D)
        M = Z.shape[1]
        if self.head == "ridge":
            rows = Z.flatten(0, 1)  # (n M, D)
            units = (y[:, None] * M + torch.arange(M, device=y.device)).flatten()
            penalty = torch.ones(len(y), device=y.device) if w is None else 1 / w
            K = rows @ rows.T + self.ridge * penalty.repeat_interleave(M).diag()
            self.weights_ = rows.T @ torch.linalg.solve(K, F.one_hot(units, N * M).to(rows.dtype))  # (D, N M)
        else:
            Z = F.normalize(Z, dim=-1) if self.head == "cosine" else Z
            shares = F.one_hot(y, N).to(Z.dtype) * (1 if w is None else w[:, None])  # (n, N)
            self.prototypes_ = torch.einsum("nc,nmd->cmd", shares / shares.sum(0), Z)  # (N, M, D)
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
        model, js = self._model, range(self._M)
        x = model.images(X.to(model._device))
        with torch.no_grad():
            return model.f(model.expand(x, js)).unflatten(0, (len(x), len(js))).to(X.device)
