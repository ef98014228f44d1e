"""The update of proximal policy optimization: passes of clipped gradient steps over one round, in any processes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import minibatches, ppo_loss, value_loss, weighted_mean
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

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the processes, which takes the place of ``x``."""
        return x if self.size == 1 else self._sum(x).div_(self.size)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return number, mean and sum of squared deviations of the rows (m, ...) of all processes."""
        count, total = self._sum(x.new_tensor(float(len(x)))), self._sum(x.sum(0))
        mean = total / count.clamp_min(1)
        return count, mean, self._sum((x - mean).square().sum(0))

    def normalize(self, advantages: Tensor, weights: Tensor) -> Tensor:
        """Return advantages with mean 0 and deviation 1 over the samples of all processes that count."""
        count, mean, m2 = self.moments(advantages[weights > 0].double())
        std = (m2 / (count - 1).clamp_min(1)).sqrt()
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype)


def loss_terms(net: ActorCritic, batch: Batch, settings: Any) -> tuple[Tensor, Tensor]:
    """Return the loss () of a batch (T, m, ...), and what it was made of (5,), without gradients.

    These are policy loss, value loss, entropy, KL divergence and share of clipped ratios.
    """
    s, b = settings, batch
    features, _ = net.features(b.obs, b.state[0], b.starts)
    distribution = net.head(features)
    surrogate = ppo_loss(distribution.log_prob(b.actions), b.log_prob, b.advantages, s.clip, weights=b.counted)
    values = net.value(features, b.obs)
    fit = value_loss(values, b.returns, old_values=b.values, clip=s.value_clip, weights=b.counted)
    entropy = weighted_mean(distribution.entropy(), b.counted)
    loss = surrogate.loss + s.value_coefficient * fit - s.entropy_coefficient * entropy
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
        Of the mini-batches: of whole sequences if there is a memory, else of samples.
    group : ProcessGroup
    """
    s, lr = settings, optimizer.param_groups[0]["lr"]
    net.train()
    if s.normalize_advantages == "round":
        batch = replace(batch, advantages=group.normalize(batch.advantages, batch.counted))
    samples = batch if net.core is not None else batch.map(lambda x: x.flatten(0, 1)[None])
    n = samples.actions.shape[1]
    for _ in range(s.epochs):
        measured = []
        for rows in minibatches(n, count=min(s.minibatches, n), generator=order):
            part = samples.map(partial(torch.index_select, dim=1, index=rows.to(weights.device)))
            if s.normalize_advantages == "minibatch":
                part.advantages = group.normalize(part.advantages, part.counted)
            loss, terms = loss_terms(net, part, s)
            advice = f"lower lr (now {lr:g}) or reward_scale, or look for extreme observations"
            require_finite(loss, f"the loss in round {len(s.history_)}", advice)
            optimizer.zero_grad(set_to_none=False)  # the network's gradients are views of one tensor
            loss.backward()
            group.mean(weights.grad)  # type: ignore[arg-type]
            if s.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(weights, s.max_grad_norm)
            optimizer.step()
            measured.append(terms)
    means = group.mean(torch.stack(measured).mean(0)).tolist()
    spread = batch.returns.var()
    explained = 1 - (batch.returns - batch.values).var() / spread if spread > 0 else torch.tensor(math.nan)
    names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
    return {**dict(zip(names, means, strict=True)), "explained_variance": explained.item(), "lr": lr}


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
