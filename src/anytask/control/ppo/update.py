"""The update of proximal policy optimization: passes of clipped gradient steps over one round, in any processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import minibatches, normalize, ppo_loss, value_loss, weighted_mean
from anytask.control.ppo.collection import Batch
from anytask.control.ppo.network import ActorCritic
from anytask.core.checks import require_finite


class ProcessGroup:
    """The processes of :mod:`torch.distributed` that learn together, if there is a process group; else this one alone.

    Attributes
    ----------
    rank, size : int
        Which process this is, and of how many.

    Examples
    --------
    >>> alone = ProcessGroup()
    >>> alone.size, [x.tolist() for x in alone.moments(torch.tensor([[1.0], [3.0]]))]
    (1, [2.0, [2.0], [2.0]])
    """

    def __init__(self) -> None:
        on = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if on else 0
        self.size = torch.distributed.get_world_size() if on else 1

    def _sum(self, x: Tensor) -> Tensor:
        if self.size > 1:
            torch.distributed.all_reduce(x)
        return x

    def average(self, weights: nn.Parameter) -> None:
        """Average gradients in place."""
        if self.size > 1:
            assert weights.grad is not None
            self._sum(weights.grad).div_(self.size)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the processes."""
        return x if self.size == 1 else self._sum(x.clone()) / self.size

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return number, mean and sum of squared deviations of the rows (m, ...) of all processes."""
        count, total = self._sum(x.new_tensor(float(len(x)))), self._sum(x.sum(0))
        mean = total / count
        return count, mean, self._sum((x - mean).square().sum(0))

    def normalize(self, advantages: Tensor, weights: Tensor | None) -> Tensor:
        """Return advantages with mean 0 and deviation 1 over the samples of all processes that count."""
        if self.size == 1:
            return normalize(advantages, weights)
        counted = advantages.flatten() if weights is None else advantages[weights > 0]
        count, mean, m2 = self.moments(counted.double())
        std = (m2 / (count - 1).clamp_min(1)).sqrt()
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype)


def loss_terms(
    net: ActorCritic, batch: Batch, advantages: Tensor, settings: Any, measure: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return the loss () of samples (m, ...) or sequences (T, m, ...), and on demand what it was made of (5,).

    The second are policy loss, value loss, entropy, KL divergence and share of clipped ratios, without gradients.
    """
    s, b = settings, batch
    run = net.step if net.core is None else net.features
    features, _ = run(b.obs, b.previous, b.state, b.starts)
    values = net.value(features, b.obs, b.previous)
    distribution = net.distribution(features)
    surrogate = ppo_loss(distribution.log_prob(b.actions), b.log_prob, advantages, s.clip, weights=b.counted)
    fit = value_loss(values, b.returns, old_values=b.values, clip=s.value_clip, weights=b.counted)
    loss = surrogate.loss + s.value_coefficient * fit
    if s.entropy_coefficient:
        loss = loss - s.entropy_coefficient * weighted_mean(distribution.entropy(), b.counted)
    if not measure:
        return loss, None
    entropy = weighted_mean(distribution.entropy(), b.counted)
    terms = (surrogate.loss, fit, entropy, surrogate.approximate_kl, surrogate.clip_fraction)
    return loss, torch.stack([term.detach() for term in terms])


def update(
    net: ActorCritic,
    weights: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Any,
    order: torch.Generator,
    group: ProcessGroup,
) -> dict[str, float]:
    """Make ``epochs`` passes of gradient steps over one round (T, n, ...); return the means of the last one's terms.

    Parameters
    ----------
    net : ActorCritic
    weights : Parameter
        All of the network's, in one tensor; see :func:`joined`.
    optimizer
        Of ``weights``, at the learning rate of this round.
    batch : Batch
    settings : PPO
    order : torch.Generator
        Of the mini-batches.
    group : ProcessGroup
    """
    s, lr = settings, optimizer.param_groups[0]["lr"]
    net.train()
    if s.normalize_advantages == "round":
        batch = replace(batch, advantages=group.normalize(batch.advantages, batch.counted))
    measured = []
    for epoch in range(s.epochs):
        for part in _parts(net, batch, s.minibatches, order):
            A = part.advantages
            if s.normalize_advantages == "minibatch":
                A = group.normalize(A, part.counted)
            loss, terms = loss_terms(net, part, A, s, measure=epoch == s.epochs - 1)
            advice = f"lower lr (now {lr:g}) or reward_scale, or look for extreme observations"
            require_finite(loss, f"the loss in round {len(s.history_)}", advice)
            optimizer.zero_grad(set_to_none=False)  # the network's gradients are views of one tensor
            loss.backward()
            group.average(weights)
            if s.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(weights, s.max_grad_norm)
            optimizer.step()
            if terms is not None:
                measured.append(terms)
    means = group.mean(torch.stack(measured).mean(0)).tolist()
    spread = batch.returns.var()
    explained = 1 - (batch.returns - batch.values).var() / spread if spread > 0 else torch.tensor(math.nan)
    names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
    return {**dict(zip(names, means, strict=True)), "explained_variance": explained.item(), "lr": lr}


def _parts(net: ActorCritic, batch: Batch, count: int, order: torch.Generator) -> Iterator[Batch]:
    """Cut a round into mini-batches: of whole sequences if there is a memory, else of samples."""
    sequences = net.core is not None
    samples = batch if sequences else batch.map(lambda x: x.flatten(0, 1))
    n = samples.actions.shape[1] if sequences else len(samples.actions)
    pieces = [rows.to(batch.state.device) for rows in minibatches(n, count=min(count, n), generator=order)]
    if sequences:
        yield from map(samples.sequences, pieces)
    elif net.encoder.groups:
        yield from map(samples.at, pieces)
    else:  # vectors are small: shuffled once, they need no gathering per mini-batch
        shuffled, ends = samples.at(torch.cat(pieces)), list(itertools.accumulate(map(len, pieces)))
        yield from (shuffled.at(slice(*bounds)) for bounds in itertools.pairwise([0, *ends]))


def joined(network: nn.Module) -> nn.Parameter:
    """Move all weights of a network and their gradients into one tensor each, of which its own become views.

    An optimizer step, clipping and averaging over processes are then a few operations, however many layers there are.
    """
    own = list(network.parameters())
    starts, total = [], 0
    for p in own:
        starts.append(total)
        total += -(-p.numel() // 16) * 16  # each begins at a multiple of 64 bytes
    joined = nn.Parameter(own[0].new_zeros(total))
    joined.grad = torch.zeros_like(joined)
    for p, start in zip(own, starts, strict=True):
        view = joined.data[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, p.grad = view, joined.grad[start : start + p.numel()].view_as(p)
    return joined
