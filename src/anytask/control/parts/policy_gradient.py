"""Proximal policy optimisation as parts: advantages, surrogate, value loss, learning rates, minibatches.

Everything is time-major: a roll-out of ``T`` steps in ``n`` environments is (T, n). What makes the log-probabilities
does not matter: a Gaussian, a mix of discrete and continuous actions, or a chain of denoising steps.

References
----------
Schulman, Moritz, Levine, Jordan, Abbeel, 2016, "High-Dimensional Continuous Control Using Generalized Advantage
Estimation", arXiv:1506.02438. Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, "Proximal Policy Optimization
Algorithms", arXiv:1707.06347.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    last_value: Tensor,
    *,
    gamma: float,
    lambda_: float,
    final_values: Tensor | None = None,
    bootstrap_timeouts: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and the returns that values are fitted to, ``A + V``, each (T, n).

    ``delta_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = delta_t + gamma lambda A_{t+1}``; where an episode ends, the sum
    over later steps stops. A terminated episode is worth nothing afterwards. A truncated one is worth the value of its
    final observation, or nothing with ``bootstrap_timeouts=False``.

    Parameters
    ----------
    rewards, values : Tensor of shape (T, n) or (T,)
        Reward of step t, and value of the observation that its action was chosen on.
    terminated, truncated : Tensor of bool, like ``rewards``
        Whether step t ended an episode: in the world, or by the clock.
    last_value : Tensor of shape (n,) or ()
        Value of the observation after step T - 1; unused for environments whose last step ended an episode.
    gamma, lambda_ : float in [0, 1]
        Discount and trace decay.
    final_values : Tensor like ``rewards``, optional
        Values of the observations in which truncated episodes ended; looked at where ``truncated`` alone holds.
    bootstrap_timeouts : bool, default True
        Whether time limits are ours and not the task's.

    Raises
    ------
    ValueError
        For shapes that differ, or truncated steps to bootstrap without ``final_values``.

    Examples
    --------
    >>> r, V = torch.tensor([0.2, 5.2, 10.0]), torch.tensor([1.0, 2.0, 4.0])
    >>> end, never = torch.tensor([False, False, True]), torch.zeros(3, dtype=torch.bool)
    >>> A, returns = gae(r, V, end, never, torch.tensor(0.0), gamma=0.99, lambda_=0.95)
    >>> [round(a, 4) for a in A.tolist()]
    [13.2212, 12.803, 6.0]
    """
    for name, tensor in (("values", values), ("terminated", terminated), ("truncated", truncated)):
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name} must have the shape of rewards, {tuple(rewards.shape)}, got {tuple(tensor.shape)}"
            )
    if last_value.shape != rewards.shape[1:]:
        raise ValueError(f"last_value must have shape {tuple(rewards.shape[1:])}, got {tuple(last_value.shape)}")
    next_values = torch.cat([values[1:], last_value[None]])
    done = terminated | truncated
    next_values = next_values.masked_fill(done, 0.0)
    if bootstrap_timeouts and bool((truncated & ~terminated).any()):
        if final_values is None:
            raise ValueError("truncated episodes are bootstrapped from final_values, and none were given")
        next_values = torch.where(truncated & ~terminated, final_values, next_values)
    delta = rewards + gamma * next_values - values
    keep = gamma * lambda_ * (~done).to(delta.dtype)
    advantages = torch.empty_like(delta)
    running = torch.zeros_like(last_value)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + keep[t] * running
        advantages[t] = running
    return advantages, advantages + values


def normalize(advantages: Tensor, eps: float = 1e-8) -> Tensor:
    """Return ``advantages`` with mean 0 and standard deviation 1; equal ones say nothing of actions, and become 0.

    Examples
    --------
    >>> normalize(torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    std = advantages.std() if advantages.numel() > 1 else 0.0
    return (advantages - advantages.mean()) / (std + eps)


@dataclass(frozen=True)
class Surrogate:
    """What :func:`ppo_loss` returns.

    Attributes
    ----------
    loss : Tensor, shape ()
        To be minimised.
    log_ratio : Tensor, like ``log_prob``
        Log of the probability ratios.
    clip, weights
        As they were given.
    """

    loss: Tensor
    log_ratio: Tensor
    clip: float
    weights: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """Probability ratios, like ``log_prob``; detached."""
        return self.log_ratio.detach().exp()

    @property
    def approximate_kl(self) -> Tensor:
        """``KL(old || new)`` (), estimated without bias and never below 0; detached."""
        log_ratio = self.log_ratio.detach()
        return weighted_mean(log_ratio.expm1() - log_ratio, self.weights)

    @property
    def clip_fraction(self) -> Tensor:
        """Share of ratios outside the clip range, (); detached."""
        return weighted_mean(((self.ratio - 1).abs() > self.clip).to(self.log_ratio.dtype), self.weights)


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip: float = 0.2,
    *,
    weights: Tensor | None = None,
) -> Surrogate:
    """Return the clipped surrogate ``-E min(rho A, clip(rho, 1 - clip, 1 + clip) A)``, ``rho = exp(new - old)``.

    Parameters
    ----------
    log_prob, old_log_prob : Tensor of shape (..., n)
        Log-probabilities of the actions taken, under the policy now and under the one that took them. Leading axes that
        ``advantages`` lacks are sub-steps of one action (a chain of denoising steps): all of them share the action's
        advantage, each has a ratio of its own, and the loss is their mean.
    advantages : Tensor of shape (n,), or like ``log_prob``
    clip : float > 0, default 0.2
    weights : Tensor of shape (n,), or like ``log_prob``, optional
        How much each sample counts; 0 for padding.

    Examples
    --------
    A ratio of 2 with a positive advantage is cut at 1.2; with a negative one it counts in full.

    >>> twice = torch.tensor([2.0]).log()
    >>> [round(ppo_loss(twice, torch.zeros(1), torch.tensor([a])).loss.item(), 4) for a in (1.0, -1.0)]
    [-1.2, 2.0]
    """
    if log_prob.shape != old_log_prob.shape:
        raise ValueError(f"log_prob {tuple(log_prob.shape)} and old_log_prob {tuple(old_log_prob.shape)} differ")
    if advantages.shape != log_prob.shape[log_prob.dim() - advantages.dim() :]:
        raise ValueError(f"advantages {tuple(advantages.shape)} do not fit log_prob {tuple(log_prob.shape)}")
    log_ratio = log_prob - old_log_prob
    rho = log_ratio.exp()
    gain = torch.minimum(rho * advantages, rho.clamp(1 - clip, 1 + clip) * advantages)
    return Surrogate(-weighted_mean(gain, weights), log_ratio, clip, weights)


def value_loss(
    values: Tensor,
    returns: Tensor,
    *,
    old_values: Tensor | None = None,
    clip: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return ``E (V - R)^2 / 2``; with ``clip`` the larger of it and the same for V kept within ``clip`` of the old V.

    Examples
    --------
    >>> value_loss(torch.tensor([3.0]), torch.tensor([1.0])).item()
    2.0
    """
    error = (values - returns).square()
    if clip is not None:
        if old_values is None:
            raise ValueError("clipping the value loss needs old_values")
        error = torch.maximum(error, (old_values + (values - old_values).clamp(-clip, clip) - returns).square())
    return 0.5 * weighted_mean(error, weights)


def weighted_mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of ``x``, or with ``weights`` (of the trailing axes of ``x``) the weighted one; 0 if all are 0.

    Examples
    --------
    >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 0.0])).item()
    1.0
    """
    if weights is None:
        return x.mean()
    weights = weights.to(x.dtype).expand_as(x)
    return (x * weights).sum() / weights.sum().clamp_min(torch.finfo(x.dtype).tiny)


def kl_adaptive_lr(
    lr: float,
    kl: float,
    target: float = 0.01,
    bounds: Sequence[float] = (1e-5, 1e-2),
    factor: float = 1.5,
    tolerance: float = 2.0,
) -> float:
    """Return the learning rate of the next update, which keeps each update's KL divergence near a target.

    A divergence above ``tolerance * target`` divides the rate by ``factor``, one below ``target / tolerance``
    multiplies it, within bounds.

    Parameters
    ----------
    lr, kl : float
        Of the last update.
    target : float > 0, default 0.01
    bounds : (float, float), default (1e-5, 1e-2)
    factor, tolerance : float > 1, default 1.5 and 2.0

    Examples
    --------
    >>> [round(kl_adaptive_lr(0.001, kl), 6) for kl in (0.03, 0.01, 0.001)]
    [0.000667, 0.001, 0.0015]
    """
    if kl > tolerance * target:
        return max(bounds[0], lr / factor)
    return min(bounds[1], lr * factor) if kl < target / tolerance else lr


def linear_decay(initial: float, done: float) -> float:
    """Return what is left of ``initial`` when the share ``done`` of training, in [0, 1], is over.

    Examples
    --------
    >>> [linear_decay(0.4, done) for done in (0.0, 0.5, 1.0)]
    [0.4, 0.2, 0.0]
    """
    return initial * (1.0 - min(max(done, 0.0), 1.0))


def minibatches(
    n: int, *, count: int | None = None, size: int | None = None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield index tensors that visit each of ``n`` items once, in random order.

    The items are whatever the learner may tear apart: all ``T * n`` samples of a roll-out (index ``x.flatten(0, 1)``),
    or, for recurrent policies, its ``n`` environments (index ``x[:, rows]``), whose sequences then stay whole.

    Parameters
    ----------
    n : int >= 1
    count : int, optional
        Number of minibatches, of sizes that differ by one at most.
    size : int, optional
        Size of the minibatches instead; a last one may be smaller.
    generator : torch.Generator
        Source of the order; the result lives on its device.

    Examples
    --------
    >>> [len(rows) for rows in minibatches(10, count=4, generator=torch.Generator().manual_seed(0))]
    [3, 3, 2, 2]
    """
    if (count is None) == (size is None):
        raise ValueError("give either count or size")
    if n < 1 or (count is not None and not 1 <= count <= n) or (size is not None and size < 1):
        raise ValueError(f"cannot cut {n} items into {f'{count} minibatches' if size is None else f'sizes of {size}'}")
    order = torch.randperm(n, generator=generator, device=generator.device)
    yield from order.tensor_split(count) if count is not None else order.split(size)


def weak_signals(rounds: Sequence[Mapping[str, float]], total: int, least: int = 5) -> list[str]:
    """Return sentences on why a policy can have learned little from these rounds.

    Parameters
    ----------
    rounds : sequence of mapping
        With ``reward_min``, ``reward_max``, ``advantage_std`` and ``success`` (NaN where it is not known).
    total : int
        Rounds in all, those of earlier trainings too.
    least : int, default 5
        Rounds below which there were too few.

    Examples
    --------
    >>> nothing = {"reward_min": 0.0, "reward_max": 0.0, "advantage_std": 0.1, "success": 0.0}
    >>> weak_signals([nothing] * 9, total=9)
    ['no reward above 0 was seen in 9 rounds: nothing tells good actions from bad ones']
    """
    if not rounds:
        return []
    found = []
    if total < least:
        found.append(f"the policy was updated in {total} rounds only: give more steps, or a shorter horizon")
    low, high = min(r["reward_min"] for r in rounds), max(r["reward_max"] for r in rounds)
    success = [r["success"] for r in rounds if not math.isnan(r["success"])]
    # Costs below 0 teach as well as rewards do, unless the task tells that it was never done.
    if high <= 0 and (low == high or (success and max(success) == 0)):
        found.append(f"no reward above 0 was seen in {len(rounds)} rounds: nothing tells good actions from bad ones")
    if max(r["advantage_std"] for r in rounds) < 1e-7:
        found.append(f"all advantages were equal in {len(rounds)} rounds: every action seems as good as any other")
    return found
