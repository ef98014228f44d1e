"""MIGU: only the output units that a batch excites learn from it, in anybody's training loop.

Departures from the paper: none in the rule. Hooks cannot come between ``backward`` and a clipping of gradients in the
user's loop, so the mask is applied last before the step; :meth:`MagnitudeGate.mask_gradients`, called before clipping,
gives the paper's order. Of the clusters of units that the released code tries, blocks of neighboring units are offered
(``cluster``), and neither k-means nor spectral clusters. That the first task is not gated there takes ``start_step``
here, since nobody says which task it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anytask.continual.baselines import FineTuning
from anytask.continual.parts.gate import MagnitudeGate
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, real, whole

__all__ = ["MIGU", "MagnitudeGate", "magnitude_gating"]


@contextmanager
def magnitude_gating(
    model: nn.Module, optimizer: torch.optim.Optimizer, ratio: float = 0.7, **settings: Any
) -> Iterator[MagnitudeGate]:
    """Let only the output units learn that the batches since the last step excite, inside the block.

    Put it around forward, backward and step of a training loop, whatever the loop is. Gradients may be accumulated over
    several mini-batches; a model in PEFT's LoRA layers is gated in its adapters.

    Parameters
    ----------
    model : torch.nn.Module
        A transformer: the linear layers inside its blocks are gated. In a network without blocks all linear layers are.
    optimizer : torch.optim.Optimizer
        Of the model's parameters.
    ratio : float in [0, 1), default 0.7
        Share of the units of a layer that do not learn.
    **settings
        Others of :class:`~anytask.continual.parts.gate.MagnitudeGate`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> before = model[0].weight.detach().clone()
    >>> with magnitude_gating(model, optimizer):
    ...     model(torch.randn(8, 4)).square().sum().backward()
    ...     optimizer.step()
    >>> int((model[0].weight != before).any(1).sum()) <= 3
    True
    """
    with MagnitudeGate(model, optimizer, ratio, **settings) as gate:
        yield gate


class MIGU(FineTuning):
    """Magnitude-based gradient updating (Du et al., 2024), around plain fine-tuning.

    After each backward pass a row of a linear layer's gradient is kept only where the unit's output was large on this
    batch. Tasks that excite different units then learn in different parts of the network, without old samples, without
    more parameters, and without a word on tasks. Pick it for text models and other transformers; on small image
    networks, whose tasks excite the same units, it gains nothing. Try random units (``units="random"``)
    beside it, which may do as well. For a loop of your own see :func:`magnitude_gating`,
    for transformers' Trainer :func:`trainer_callback`.

    Parameters
    ----------
    ratio : float in [0, 1)
        Share of the units that do not learn; 0 is plain fine-tuning.
    rule : {"quantile", "topk"}
        Keep units whose magnitude is at least the quantile at ``ratio`` (released code), or all but the
        ``floor(ratio n)`` smallest (paper).
    units : {"magnitude", "random"}
        Which units learn; random ones are the ablation.
    strict : bool
        Put masked rows back after the step: an optimizer's momentum and weight decay move them otherwise.
    cluster : int
        Neighboring units that are gated together, by their mean magnitude.
    start_step : int
        Steps before gating begins: those of the first task, where it is known.
    backbone, hidden, n_features, lr, momentum, weight_decay, epochs, batch_size, seed, device
        Those of :class:`~anytask.continual.baselines.FineTuning`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 600)
    >>> X = 3 * np.eye(8)[y] + 0.3 * rng.normal(size=(600, 8))
    >>> model = MIGU.from_preset("small").partial_fit(X, y)
    >>> bool(model.score(X, y) > 0.5 + 0.4)
    True

    References
    ----------
    Du, Luo, Zhao, Qiu, Huang, Cheng, Guo, Fu, 2024, "Unlocking Continual Learning Abilities in Language Models",
    Findings of EMNLP, arXiv:2406.17245.
    """

    sees: ClassVar[str] = "none"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"batch_size": 16}}

    ratio: float = real(0.7, "share of the units that do not learn", at_least=0, below=1)
    rule: str = choice("quantile", ("quantile", "topk"), "which magnitudes are large")
    units: str = choice("magnitude", ("magnitude", "random"), "which units learn; random: an ablation")
    strict: bool = flag(False, "put masked rows back after the step")
    cluster: int = whole(1, "neighboring units that are gated together")
    start_step: int = whole(0, "steps before gating begins", at_least=0)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        gate = MagnitudeGate(
            self.network_.body, self.optimizer_, self.ratio, rule=self.rule, units=self.units, strict=self.strict,
            cluster=self.cluster, start_step=max(0, self.start_step - self.steps_),
            seed=derive(self.seed, "units", self.n_chunks_),
        )  # fmt: skip
        with gate:
            super()._learn(X, y, task)


def trainer_callback(ratio: float = 0.7, **settings: Any) -> Any:
    """Return a ``TrainerCallback`` that gates transformers' Trainer, and TRL's, from the first to the last step.

    Parameters
    ----------
    ratio, **settings
        As in :func:`magnitude_gating`. The Trainer clips gradients before they are masked.
    """
    from transformers import TrainerCallback

    weight = nn.Linear(1, 1)
    MagnitudeGate(weight, torch.optim.SGD(weight.parameters()), ratio, **{**settings, "layers": None})  # checks them

    class MagnitudeGating(TrainerCallback):
        gate: MagnitudeGate | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.on_train_end(args, state, control)  # of a training that failed
            optimizer = kwargs["optimizer"]
            inner = getattr(optimizer, "optimizer", optimizer)  # inside accelerate's
            self.gate = MagnitudeGate(kwargs["model"], inner, ratio, **settings).__enter__()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.gate is not None:
                self.gate.close()

    return MagnitudeGating()
