"""SADE: experts for different class frequencies, weighed on the test inputs themselves (Zhang et al., 2021).

Departures from the paper
-------------------------
* ``scale`` is 10 and not 30, with which the backward expert is over-confident on small networks and adaptation runs to
  it on any test data; the published values are the preset ``paper``.
* The preset ``paper`` shares all of the ResNet but the heads' layers: give ``backbone`` and ``branch`` for late stages
  of its own for each expert.
* Weights of inputs, where given, count in the losses and in the shares of the classes.
* The logits of a pass over the test inputs are computed at once, since only the K weights change in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from anytask.core.checks import require_finite
from anytask.core.errors import shown
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive
from anytask.core.settings import check_whole, free, real, whole
from anytask.robust.parts.branches import BranchTraining
from anytask.robust.parts.long_tail import expert_offsets

__all__ = ["SADE"]


def _check_experts(experts: Any) -> None:
    if isinstance(experts, (str, bytes)) or not isinstance(experts, Sequence) or not experts:
        raise ValueError(f"experts must be a list of 'forward' and numbers of at least 0, got {experts!r}")
    for expert in experts:
        number = isinstance(expert, (int, float)) and not isinstance(expert, bool) and 0 <= expert < float("inf")
        if expert != "forward" and not number:
            raise ValueError(f"experts must be a list of 'forward' and numbers of at least 0, got {expert!r} in it")


class SADE(BranchTraining):
    """Classify where some classes were rare in training, and nobody knows which are frequent at test time.

    Three experts on a common stem learn for classes as frequent as in training, even ones, and inverted ones. Then
    :meth:`adapt` looks at inputs to be classified, without labels: the expert whose answers are the more stable under
    two random views of an input gets more weight. Pick it where test data come in batches and their class frequencies
    shift; where classes are even at test time and known to be, plain logit adjustment does as well at a third of the
    cost. It needs views that keep labels.

    What is not listed here (``backbone``, ``branch``, ``views``, ``steps``, ``lr`` and so on) is as in
    :class:`~anytask.robust.parts.branches.BranchTraining`.

    Parameters
    ----------
    experts : sequence of "forward" or float >= 0, default ("forward", 0.0, 2.0)
        One expert each: "forward" keeps the training shares; a number inverts them with this strength, 0 makes them
        even.
    adapt_lr, adapt_momentum, adapt_weight_decay : float, default 0.1, 0.9 and 5e-4
        Of SGD on the weights of the experts; its weight decay pulls them to even ones.
    adapt_epochs : int, default 5
        Passes over the test inputs at most.
    guard : float in [0, 1), default 0.05
        A share of an expert below which adaptation ends.

    Attributes
    ----------
    weights_ : list of float
        What :meth:`adapt` changes; :attr:`shares` are their softmax.

    Examples
    --------
    Class 0 is frequent in training, and rare in the inputs to be classified:

    >>> rng = torch.Generator().manual_seed(0)
    >>> X = torch.randn(220, 4, generator=rng)
    >>> y = torch.arange(220) // 200
    >>> X[:, 0] += y
    >>> model = SADE(steps=300, views={"noise_scale": 0.3}).fit(X, y)
    >>> new = torch.randn(200, 4, generator=rng) + torch.tensor([1.0, 0, 0, 0])
    >>> forward, uniform, backward = model.adapt(new).shares
    >>> backward > forward
    True

    References
    ----------
    Zhang, Hooi, Hong, Feng, 2021, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed
    Recognition", NeurIPS 2022, arXiv:2107.09249.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"steps": 1200},
        "paper": {
            "backbone": "resnet32", "scale": 30.0, "lr": 0.1, "batch_size": 128, "steps": 17_000,
            "views": {"kind": "flip-crop-jitter"},
        },
    }  # fmt: skip
    INFERENCE: ClassVar = ("adapt_lr", "adapt_momentum", "adapt_weight_decay", "adapt_epochs", "guard")

    experts: Sequence[str | float] = free(
        ("forward", 0.0, 2.0), "'forward', or how strongly the training shares are inverted, of each", _check_experts
    )
    adapt_lr: float = real(0.1, "learning rate of the experts' weights", above=0)
    adapt_momentum: float = real(0.9, "momentum of the same", at_least=0, below=1)
    adapt_weight_decay: float = real(5e-4, "weight decay of the same, which pulls to even ones", at_least=0)
    adapt_epochs: int = whole(5, "passes over the test inputs at most", at_least=0)
    guard: float = real(0.05, "share of an expert below which adaptation ends", at_least=0, below=1)

    weights_: list[float]

    @property
    def shares(self) -> list[float]:
        """How much each expert counts; they sum to 1."""
        self._check_fitted()
        self._check_shape_kept()
        return torch.tensor(self.weights_).softmax(0).tolist()

    def adapt(
        self,
        X: ArrayLike | Tensor,
        *,
        restart: bool = True,
        epochs: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Weigh the experts for inputs without labels; the network stays as it is.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        restart : bool, default True
            Begin with even weights. False goes on from the present ones: for a stream,
            ``model.adapt(batch, restart=False, epochs=1).predict(batch)``.
        epochs : int, optional
            Passes over the inputs; ``adapt_epochs`` by default.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError
            For empty data, NaN or infinite inputs, another shape than that of the fit, or arguments out of range.
        """
        X_ = self._asked(X)
        if not isinstance(restart, (bool, np.bool_)):
            raise ValueError(f"restart must be True or False, got {shown(restart)}")
        passes = self.adapt_epochs if epochs is None else check_whole(epochs, "epochs", at_least=0)
        told = heard(progress)
        with self._update():
            K = len(self.experts)
            a = torch.tensor([1 / K] * K if restart else self.weights_, requires_grad=True)
            sgd = torch.optim.SGD(
                [a], self.adapt_lr, momentum=self.adapt_momentum, weight_decay=self.adapt_weight_decay
            )
            draws = torch.Generator().manual_seed(derive(self.seed, "adapt"))
            for done in range(passes):
                first, second = (self._seen(X_, draws) for _ in range(2))
                for rows in torch.randperm(len(X_), generator=draws).split(self.batch_size):
                    with torch.enable_grad():
                        loss = -stability(first[rows], second[rows], a)
                        sgd.zero_grad()
                        loss.backward()
                    sgd.step()
                told((done + 1) / passes)
                if float(a.detach().softmax(0).min()) < self.guard:
                    break
            self.weights_ = require_finite(a.detach(), "a weight of the experts", "lower adapt_lr").tolist()
        told(1.0)
        return self

    def expert_proba(self, X: ArrayLike | Tensor) -> Tensor:
        """Return the class probabilities of each expert by itself, shape (n, K, n_classes)."""
        X_ = self._asked(X)
        with torch.no_grad():
            return torch.cat([self.net_(part.to(self._device)) for part in X_.split(1024)]).softmax(-1).cpu()

    # -- training -------------------------------------------------------------------------------------------------

    def _n_branches(self) -> int:
        return len(self.experts)

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        self.weights_ = [1 / len(self.experts)] * len(self.experts)
        super()._train(X, y, w, progress)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        shifted = logits + expert_offsets(self.prior_, self.experts)
        each = F.cross_entropy(shifted.flatten(0, 1), y.repeat_interleave(logits.shape[1]), reduction="none")
        return each.view(len(y), -1).sum(1)

    # -- inference ------------------------------------------------------------------------------------------------

    def _scores(self, X: Tensor) -> Tensor:
        a = torch.tensor(self.weights_, device=X.device).softmax(0)
        return torch.einsum("k,nkc->nc", a, self.net_(X))

    @torch.no_grad()
    def _seen(self, X: Tensor, draws: torch.Generator) -> Tensor:
        """Return the experts' logits (n, K, C), on the CPU, of one random view of each input."""
        view = self.views.maker(self.input_shape_)
        return torch.cat([self.net_(view(part, draws).to(self._device)).cpu() for part in X.cpu().split(1024)])


def stability(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return how alike the answers to two views are: the mean cosine of their probabilities.

    Parameters
    ----------
    first, second : Tensor of shape (n, K, C)
        Logits of the experts on each view.
    weights : Tensor of shape (K,)
        Of the experts, before the softmax.

    Examples
    --------
    >>> one = torch.tensor([[[2.0, 0, 0], [1, 1, 0], [0, 0, 2]]])
    >>> two = torch.tensor([[[2.0, 0.2, 0], [0, 1, 1], [0, 0, 1.8]]])
    >>> stability(one, two, torch.ones(3) / 3)
    tensor(0.9629)
    """
    a = weights.softmax(0)
    p, q = (torch.einsum("k,nkc->nc", a, logits).softmax(-1) for logits in (first, second))
    return F.cosine_similarity(p, q, dim=-1).mean()
