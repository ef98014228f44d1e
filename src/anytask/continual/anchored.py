"""EWC and MAS: parameters that mattered to earlier tasks are held where they were, without any old sample."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from anytask.continual.baselines import _Network
from anytask.continual.parts.importance import accumulated, fisher, mas, normalized, pull_back
from anytask.continual.parts.sgd import mode
from anytask.continual.parts.stream import Reservoir
from anytask.core.rng import derive
from anytask.core.settings import real, whole

__all__ = ["EWC", "MAS"]


class _Anchored(_Network):
    """One network whose parameters are drawn back to where the last task left them; a system writes ``_estimate``."""

    needs: ClassVar[str] = "boundary"
    multilabel: ClassVar[bool] = False
    STRUCTURE: ClassVar[tuple[str, ...]] = (*_Network.STRUCTURE, "rows")

    lambda_: float = real(0.1, "strength of the penalty", at_least=0)
    rows: int | None = whole(2000, "rows of a task kept until it ends, for importances; None for all", optional=True)

    def _estimate(self, parameters: list[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
        """Return how much each parameter matters to these rows."""
        raise NotImplementedError

    def _start(self) -> None:
        super()._start()
        self.importance_: list[Tensor] = []
        self.anchors_: list[Tensor] = []

    def _build(self) -> None:
        super()._build()
        self.memory_ = Reservoir(self.rows, derive(self.seed, "rows"))

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        super()._learn(X, y, task)
        self._check_answers(X, task)  # all rows: pulled back, weights that diverge stay finite for long

    def _observe(self, X: Tensor, y: Tensor) -> None:
        super()._observe(X, y)
        rate = self.lr * self.lambda_ / (1 - self.momentum)
        pull_back(self._parameters(), self.anchors_, self.importance_, rate)
        self.memory_.add(X, y)

    def _parameters(self) -> list[Tensor]:
        return [p for p in self.network_.parameters() if p.requires_grad]

    def end_task(self) -> Self:
        """Add the importances of the task that ends to those before, and anchor the network as it is now."""
        self._check_fitted()
        if len(self.memory_):
            with self._ending(), mode(self.network_, False):
                X, y = (part.to(self._device) for part in self.memory_.data())
                parameters = self._parameters()
                new = normalized(self._estimate(parameters, X, y))
                self.importance_ = accumulated(self.importance_, new)
                self.anchors_ = [p.detach().clone() for p in parameters]
                self.memory_.clear()
        return self


class EWC(_Anchored):
    """Elastic weight consolidation: importance is the Fisher information of the labels.

    Pick it, or :class:`MAS`, when task ends are announced and neither samples nor a second network may be kept; with
    classes that are told apart over all tasks, both need a memory beside them.

    Parameters
    ----------
    backbone, frozen, hidden, n_features, lr, momentum, weight_decay
        As in :class:`~anytask.continual.baselines.FineTuning`.
    lambda_ : float, at least 0
        Strength of the penalty ``lambda / 2 sum_i Omega_i (theta_i - theta*_i)^2``, where the importances of each task
        have mean 1; 0 is fine-tuning. Chosen among 0.01, 0.1, 1, 10 and 100 on streams of training rows of digits.
    rows : int or None
        Rows of a task that are kept until it ends, for its importances.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    importance_, anchors_ : list of Tensor
        Omega, summed over tasks, and theta*, by the parameters of ``network_``.

    Examples
    --------
    >>> import numpy as np, torch
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(64, 4)), np.arange(64) % 2
    >>> model = EWC.from_preset("small", lambda_=1e6).partial_fit(x, y).end_task()
    >>> before = model.network_.weight[:2].clone()
    >>> bool(torch.allclose(model.partial_fit(x, y + 2).network_.weight[:2], before, atol=1e-4))
    True

    References
    ----------
    Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in neural networks", PNAS, arXiv:1612.00796.

    **Departures from the paper.** One running sum of importances and the last parameters in place of a penalty for each
    task; importances of mean 1; the penalty is taken by implicit steps, which do not diverge.
    """

    def _estimate(self, parameters: list[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
        return fisher(self.network_, parameters, X, y)


class MAS(_Anchored):
    """Memory-aware synapses: importance is how far a parameter moves the outputs, whatever the labels.

    Parameters
    ----------
    backbone, frozen, hidden, n_features, lr, momentum, weight_decay, lambda_, rows, epochs, batch_size, seed, device
        As in :class:`EWC`.

    Attributes
    ----------
    importance_, anchors_ : list of Tensor
        As in :class:`EWC`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(64, 4)), np.arange(64) % 2
    >>> model = MAS.from_preset("small").partial_fit(x, y).end_task()
    >>> round(sum(float(omega.sum()) for omega in model.importance_) / model.cost()["trainable_parameters"], 4)
    1.0

    References
    ----------
    Aljundi, Babiloni, Elhoseiny, Rohrbach, Tuytelaars, 2018, "Memory Aware Synapses", ECCV, arXiv:1711.09601.

    **Departures from the paper.** Those of :class:`EWC`.
    """

    def _estimate(self, parameters: list[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
        return mas(self.network_, parameters, X)
