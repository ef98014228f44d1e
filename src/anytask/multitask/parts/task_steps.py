"""Steps on what tasks share and on what each has of its own: gradients task by task, aggregated, in flat regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.core.errors import check_flags, instance_of
from anytask.core.settings import check_number

#: Takes the gradients of all tasks (T, d) to one direction (d,): those of torchjd, or a function.
Aggregate = Callable[[Tensor], Tensor]
#: Gives the loss of each task on one batch, in the order of the heads; a generator is stopped after the one wanted.
Losses = Callable[[], Iterable[Tensor]]
_TINY = 1e-12


def total(gradients: Tensor) -> Tensor:
    """Return the sum of the tasks' gradients (T, d): equal weights."""
    return gradients.sum(0)


class TaskSteps:
    """An optimizer's steps on a trunk that tasks share and on a head of each, towards what is low and flat for all.

    With ``rho`` 0 a step takes each task's gradient once, lets ``aggregate`` make one of them for the trunk, and gives
    each head its own. With ``rho`` above 0 (Phan et al., 2022) each task is then asked again at the worst weights near
    by, ``theta + eps``, of the trunk and of its head. What its gradient changed by leads to flat regions; it is
    aggregated apart, and added. Weights are put back from a copy; the second passes see
    the random numbers of the first, and leave the statistics of batch normalization alone.

    Parameters
    ----------
    trunk : torch.nn.Module
    heads : sequence of T torch.nn.Module
        One for each task; none may share a weight with the trunk or another head.
    optimizer : torch.optim.Optimizer
        Of all of their weights.
    aggregate : callable
        Takes gradients (T, d) to (d,): an aggregator of torchjd, or a function. The sum unless given.
    rho : float, default 0.0
        Radius of the perturbations; 0 is the plain step.
    adaptive : bool, default False
        Perturb each weight in proportion to its size (ASAM).
    joint : bool, default False
        One radius for the trunk's and the head's perturbation together, instead of one each.
    split : bool, default True
        Aggregate the gradients and their changes apart; False: aggregate the gradients at the perturbed weights.

    Raises
    ------
    ValueError
        If rho is below 0, or the modules share weights.

    Examples
    --------
    Two tasks share one weight; their minima lie at 1 and at -1, the second in a narrower valley. Its slope at the worst
    weight near by counts more, and draws the weight closer:

    >>> found = []
    >>> for rho in (0.0, 0.1):
    ...     trunk, heads = nn.Linear(1, 1, bias=False), [nn.Identity(), nn.Identity()]
    ...     w, optimizer = trunk.weight, torch.optim.SGD(trunk.parameters(), lr=0.02)
    ...     steps = TaskSteps(trunk, heads, optimizer, rho=rho)
    ...     for _ in range(200):
    ...         told = steps.step(lambda: ((w - 1).square().sum(), 4 * (w + 1).square().sum()))
    ...     found.append(round(w.item(), 2))
    >>> found
    [-0.6, -0.66]
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        aggregate: Aggregate = total,
        *,
        rho: float = 0.0,
        adaptive: bool = False,
        joint: bool = False,
        split: bool = True,
    ) -> None:
        instance_of("optimizer", torch.optim.Optimizer, optional=False)(optimizer)
        check_number(rho, "rho", at_least=0)
        check_flags(adaptive=adaptive, joint=joint, split=split)
        self.trunk, self.heads, self.optimizer, self.aggregate = trunk, list(heads), optimizer, aggregate
        self.rho, self.adaptive, self.joint, self.split = rho, adaptive, joint, split
        self.shared = [weight for weight in trunk.parameters() if weight.requires_grad]
        self.own = [[weight for weight in head.parameters() if weight.requires_grad] for head in self.heads]
        weights = [weight for group in (self.shared, *self.own) for weight in group]
        if len(set(weights)) < len(weights):
            raise ValueError("the trunk and the heads share weights: a head's weights must be its own")

    def step(self, losses: Losses) -> list[float]:
        """Make one step, and return the losses at the weights before it.

        Parameters
        ----------
        losses : callable
            Gives the loss of each task, all on the same batch; called once, and once for each task if ``rho`` > 0.
        """
        random = _random_state(self.shared)
        found = list(losses())
        if len(found) != len(self.heads):
            raise ValueError(f"there are {len(self.heads)} heads, and losses() gave {len(found)} losses")
        told = require_finite(torch.stack([loss.detach() for loss in found]), "a task's loss", "lower lr")
        if not self.rho and self.aggregate is total:  # one backward pass does
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(found).sum().backward()
            self.optimizer.step()
            return told.tolist()
        rows, heads = zip(*(self._gradients(i, loss, keep=True) for i, loss in enumerate(found)))
        G = torch.stack([_flat(row) for row in rows])  # (T, d)
        direction = self.aggregate(G)
        if self.rho:
            with _statistics_kept([self.trunk, *self.heads]), torch.random.fork_rng(_devices(self.shared)):
                sharp = [self._worst(i, rows[i], heads[i], losses, random) for i in range(len(found))]
            heads = tuple(own for _, own in sharp)
            G_worst = torch.stack([_flat(row) for row, _ in sharp])
            direction = direction + self.aggregate(G_worst - G) if self.split else self.aggregate(G_worst)
        self.optimizer.zero_grad(set_to_none=True)
        self._put(direction, heads)
        self.optimizer.step()
        return told.tolist()

    def _worst(
        self, i: int, shared: list[Tensor], own: list[Tensor], losses: Losses, random: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of task i at the worst weights near by, by its gradients here."""
        groups = [[*zip(self.shared, shared)], [*zip(self.own[i], own)]]
        pairs = [pair for group in groups for pair in group]
        before = [weight.detach().clone() for weight, _ in pairs]
        with torch.no_grad():
            for group in [pairs] if self.joint else groups:
                for (weight, _), eps in zip(group, perturbation(group, self.rho, self.adaptive)):
                    weight.add_(eps)
        try:
            _set_random_state(random)
            loss = next(islice(iter(losses()), i, None))
            return self._gradients(i, loss, keep=False)
        finally:
            with torch.no_grad():
                for (weight, _), value in zip(pairs, before):
                    weight.copy_(value)

    def _gradients(self, i: int, loss: Tensor, *, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of a task's loss, of the trunk's weights and of its head's; 0 where it has none."""
        weights = [*self.shared, *self.own[i]]
        found: Sequence[Tensor | None] = [None] * len(weights)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, weights, retain_graph=keep, allow_unused=True)
        filled = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found)]
        return filled[: len(self.shared)], filled[len(self.shared) :]

    def _put(self, direction: Tensor, heads: Sequence[list[Tensor]]) -> None:
        parts = direction.split([weight.numel() for weight in self.shared]) if self.shared else ()
        for weight, part in zip(self.shared, parts):
            weight.grad = part.view_as(weight).clone()
        for weights, gradients in zip(self.own, heads):
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient


def perturbation(group: Sequence[tuple[Tensor, Tensor]], rho: float, adaptive: bool = False) -> list[Tensor]:
    """Return what raises a loss most within a radius, to first order, for weights and their gradients.

    ``rho g / ||g||``, or, adaptive, ``rho w^2 g / || |w| g ||``; the norm is over all of them together.

    Examples
    --------
    >>> w, g = torch.tensor([2.0, 1.0]), torch.tensor([3.0, 4.0])
    >>> [eps] = perturbation([(w, g)], 0.5)
    >>> [adapted] = perturbation([(w, g)], 0.5, adaptive=True)
    >>> eps.tolist(), [round(one, 4) for one in adapted.tolist()]
    ([0.30000001192092896, 0.4000000059604645], [0.8321, 0.2774])
    """
    scaled = [w.detach().abs() * g if adaptive else g for w, g in group]
    norm = torch.stack([part.norm() for part in scaled]).norm() if scaled else torch.zeros(())
    return [rho * (w.detach().abs() * s if adaptive else s) / (norm + _TINY) for (w, _), s in zip(group, scaled)]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in gradients]) if gradients else torch.zeros(0)


@contextmanager
def _statistics_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Normalize by the batch inside the block, and leave running statistics and their counts alone."""
    every: list[Any] = [m for module in modules for m in module.modules()]
    norms = [module for module in every if module.training and getattr(module, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _devices(weights: Sequence[Tensor]) -> list[Any]:
    return sorted({weight.device.index or 0 for weight in weights if weight.device.type == "cuda"})


def _random_state(weights: Sequence[Tensor]) -> Any:
    return torch.get_rng_state(), {index: torch.cuda.get_rng_state(index) for index in _devices(weights)}


def _set_random_state(state: Any) -> None:
    torch.set_rng_state(state[0])
    for index, own in state[1].items():
        torch.cuda.set_rng_state(own, index)
