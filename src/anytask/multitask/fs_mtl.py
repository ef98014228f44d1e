"""FS-MTL: multi-task learning in regions that are low and flat for every task (Phan et al., 2022).

Of a batch, with the trunk's weights theta and those of task i's head theta_i,

1. ``g_i`` and ``q_i``: gradients of L_i by theta and theta_i, at the present weights;
2. ``eps_i = rho g_i / ||g_i||`` for the trunk and ``rho q_i / ||q_i||`` for the head, each task its own;
3. ``g_i'`` and ``q_i'``: the gradients at ``theta + eps_i`` and the perturbed head, on the same batch;
4. the trunk's direction ``A(g_1, ..., g_T) + A(g_1' - g_1, ..., g_T' - g_T)``, for any aggregator A, and q_i' for the
   heads; then a step of the optimizer.

Departures from the paper
-------------------------
* The released code switches batch normalization's momentum to 0 for step 3, and back; here running statistics are not
  tracked meanwhile, so that their counts stand still too. Random numbers (dropout) are those of step 1.
* One norm over trunk and head together, as in the released code for Multi-MNIST, is ``perturbation="joint"``.
* ``rho`` is the released code's default for perturbations that are not adaptive; its scripts' adaptive 2.0 is the
  preset ``paper``.
* A step takes 2 T backward passes and T + 1 forward passes; a plain step of an aggregator takes T and one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from anytask.core.settings import choice, flag, real
from anytask.multitask.parts.task_steps import Aggregate, TaskSteps
from anytask.multitask.shared_trunk import SharedTrunk

__all__ = ["FSMTL", "TaskSteps"]


class FSMTL(SharedTrunk):
    """Flat-region multi-task learning: a shared network that ends where each task's loss is low and flat.

    Sharpness-aware steps for several tasks, around any way to balance their gradients. Pick it when some tasks have few
    or wrong labels, which a network that trains long would learn by heart; where training ends before it does, nothing
    is gained, and the steps take about twice as long. For a network and a loop of your own see
    :class:`~anytask.multitask.parts.task_steps.TaskSteps`.

    Parameters
    ----------
    rho : float, default 0.05
        Radius of the perturbations, which is to be tuned; 0 is :class:`~anytask.multitask.SharedTrunk`.
    adaptive : bool, default False
        Perturb each weight in proportion to its size.
    perturbation : {"separate", "joint"}, default "separate"
        A radius for the trunk's and one for the head's, or one for both.
    aggregation : {"split", "direct"}, default "split"
        Aggregate gradients and their changes apart, or the gradients at the perturbed weights.
    backbone, hidden, n_features, scale_inputs, balancer, lr, epochs, batch_size, max_steps, standardize, seed, device
        See :class:`~anytask.multitask.SharedTrunk`.

    Examples
    --------
    Two tasks on the same inputs, of which the second has a third of its labels wrong. A plain network learns the wrong
    ones by heart:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1300, 10))
    >>> Y = np.stack([X[:, 0] > 0, X[:, 0] + X[:, 1] > 0], axis=1).astype(int)
    >>> given = Y[:300].copy()
    >>> given[:, 1] = np.where(rng.random(300) < 1 / 3, 1 - given[:, 1], given[:, 1])
    >>> plain, flat = (FSMTL(rho=rho, epochs=100).fit(X[:300], given) for rho in (0, 0.2))
    >>> by_heart = [(model.predict(X[:300]) == given)[:, 1].mean() for model in (plain, flat)]
    >>> right = [(model.predict(X[300:]) == Y[300:])[:, 1].mean() for model in (plain, flat)]
    >>> bool(by_heart[0] > by_heart[1] + 0.05), bool(right[1] > right[0] + 0.02)
    (True, True)

    References
    ----------
    Phan, Tran, Tran, Ho, Nguyen, Le, 2022, "Improving Multi-task Learning via Seeking Task-based Flat Regions",
    arXiv:2211.13723.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"rho": 0.1},
        "paper": {"rho": 2.0, "adaptive": True, "batch_size": 256, "max_steps": None},
    }

    rho: float = real(0.05, "radius of the perturbations", at_least=0)
    adaptive: bool = flag(False, "perturb each weight in proportion to its size")
    perturbation: str = choice("separate", ("separate", "joint"), "a radius each for trunk and head, or one for both")
    aggregation: str = choice("split", ("split", "direct"), "of gradients and their changes apart, or of their sum")

    def _steps(self, optimizer: torch.optim.Optimizer, aggregate: Aggregate) -> TaskSteps:
        return TaskSteps(
            self.trunk_, list(self.heads_), optimizer, aggregate, rho=self.rho, adaptive=self.adaptive,
            joint=self.perturbation == "joint", split=self.aggregation == "split",
        )  # fmt: skip
