"""Task-balanced steps: one task a step, each with the same say, whatever its loss's scale and however rare it is.

References
----------
Li et al., 2022, "Uni-Perceiver v2", arXiv:2211.09808: task-balanced gradient normalization (MT-AdamW in the preprint).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from anytask.core.checks import require_finite
from anytask.core.errors import check_flags, shown
from anytask.core.settings import check_number

_TINY = 1e-12


class BalancedAdamW(torch.optim.Optimizer):
    """AdamW for training that takes one task a step: gradients of one length, moments weighted by rarity.

    With the loss L_k of the step's task k, which is drawn with probability s_k,

    * ``g = omega_k grad L_k / ||grad L_k||``, one norm over all weights that have a gradient;
    * ``m = b1 m + (1 - b1) g / s_k`` and ``n = b2 n + (1 - b2) g^2 / s_k``;
    * ``theta -= lr (m^ / (sqrt(n^) + eps) + weight_decay theta)``, with Adam's usual correction of the bias.

    The share of a task in m is then omega_k on average, whatever its loss is multiplied by. A rare task takes larger
    steps, by ``1 / sqrt(s_k)``. Weights without a gradient, as those that the task does not use, are left alone with
    their moments. Clipping the gradient before has no effect. With AMP, ``GradScaler.step(optimizer, task=...)``
    unscales before the norm is taken. In distributed training all ranks have to draw one task
    (:class:`~anytask.multitask.parts.sampling.TaskSampler`).

    Parameters
    ----------
    params : iterable
        Weights or groups of them, as any optimizer of torch takes.
    ratios : mapping of task to float in (0, 1]
        s_k, how often each task is drawn; they sum to 1.
    lr, betas, eps, weight_decay
        As in :class:`torch.optim.AdamW`.
    omega : mapping of task to float, optional
        The say of each task; 1 unless given.
    cap : float, default 20.0
        The largest 1 / s_k that is taken.
    normalize : bool, default True
        Bring gradients to one length; False takes ``omega_k grad L_k``.
    reweight : bool, default True
        Weight moments by 1 / s_k; False takes 1.

    Raises
    ------
    ValueError
        For ratios that are no distribution, or numbers out of range.

    Examples
    --------
    The first step is ``lr / sqrt(s_k)`` in every coordinate, and its size says nothing of the loss's scale:

    >>> for scale in (1.0, 1000.0):
    ...     w = torch.nn.Parameter(torch.zeros(2))
    ...     optimizer = BalancedAdamW([w], {"rare": 0.25, "common": 0.75}, lr=0.1, weight_decay=0.0)
    ...     (scale * (w * torch.tensor([3.0, 4.0])).sum()).backward()
    ...     optimizer.step(task="rare")
    ...     w.data
    tensor([-0.2000, -0.2000])
    tensor([-0.2000, -0.2000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        ratios: Mapping[Any, float],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        omega: Mapping[Any, float] | None = None,
        cap: float = 20.0,
        normalize: bool = True,
        reweight: bool = True,
    ) -> None:
        check_number(lr, "lr", at_least=0)
        check_number(eps, "eps", at_least=0)
        check_number(weight_decay, "weight_decay", at_least=0)
        check_number(cap, "cap", at_least=1)
        for beta in betas:
            check_number(beta, "betas", at_least=0, below=1)
        check_flags(normalize=normalize, reweight=reweight)
        self.ratios, self.omega = check_ratios(ratios), dict.fromkeys(ratios, 1.0) | dict(omega or {})
        for task, value in self.omega.items():
            if task not in self.ratios:
                raise ValueError(f"omega names the task {shown(task)}, which has no ratio")
            check_number(value, f"omega[{task!r}]", above=0)
        self.cap, self.normalize, self.reweight = cap, normalize, reweight
        #: The task of the steps that do not name one.
        self.task: Any = None
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, task: Any = None) -> Any:
        """Make the step of one task, whose gradients are there.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients, as for any optimizer of torch.
        task : any
            Its name in ``ratios``; :attr:`task` unless given.

        Raises
        ------
        ValueError
            For a task without a ratio.
        NotFinite
            If a gradient is NaN or infinite; nothing is moved then.
        """
        task = self.task if task is None else task
        if task not in self.ratios:
            raise ValueError(f"no task {shown(task)}: there are {shown(list(self.ratios))}")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        if not moved:
            return loss
        norm = torch.stack([w.grad.norm() for w in moved]).norm()
        require_finite(norm, f"the gradient of task {task!r}", "lower lr, or check the loss")
        scale = self.omega[task] / (float(norm) + _TINY) if self.normalize else self.omega[task]
        weight = min(1 / self.ratios[task], self.cap) if self.reweight else 1.0
        for group in self.param_groups:
            if weights := [w for w in group["params"] if w.grad is not None]:
                self._move(weights, scale, weight, group)
        return loss

    def _move(self, weights: list[Tensor], scale: float, weight: float, group: dict[str, Any]) -> None:
        """Update the moments of weights, and move them: many small ones, as experts have, at once."""
        lr, (b1, b2) = group["lr"], group["betas"]
        for w in weights:
            state = self.state[w]
            if not state:
                state.update(step=0, m=torch.zeros_like(w), n=torch.zeros_like(w))
            state["step"] += 1
        m, n, t = ([self.state[w][name] for w in weights] for name in ("m", "n", "step"))
        g = torch._foreach_mul([w.grad for w in weights if w.grad is not None], scale)
        torch._foreach_mul_(m, b1)
        torch._foreach_add_(m, g, alpha=(1 - b1) * weight)
        torch._foreach_mul_(n, b2)
        torch._foreach_addcmul_(n, g, g, value=(1 - b2) * weight)
        root = torch._foreach_sqrt(torch._foreach_div(n, [1 - b2**step for step in t]))
        torch._foreach_add_(root, group["eps"])
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(weights, m, root, [-lr / (1 - b1**step) for step in t])


def check_ratios(ratios: Mapping[Any, float]) -> dict[Any, float]:
    """Return how often each task is drawn, or say that it is no distribution.

    Examples
    --------
    >>> check_ratios({"a": 0.5, "b": 0.6})
    Traceback (most recent call last):
        ...
    ValueError: the ratios of tasks must sum to 1, and sum to 1.1
    """
    if not isinstance(ratios, Mapping) or not ratios:
        raise ValueError(f"ratios must map each task to how often it is drawn, got {shown(ratios)}")
    for task, ratio in ratios.items():
        check_number(ratio, f"the ratio of {task!r}", above=0, at_most=1)
    if abs(sum(ratios.values()) - 1) > 1e-6:
        raise ValueError(f"the ratios of tasks must sum to 1, and sum to {sum(ratios.values()):g}")
    return dict(ratios)
