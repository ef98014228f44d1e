"""One round of proximal policy optimization: rollout collection, and the advantages of what was collected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.parts.acting import by_key
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import gae
from anytask.control.ppo.network import ActorCritic, Memory, bounded


@dataclass
class Run:
    """Where a training stands between two rounds, beside the learner itself."""

    obs: dict[str, Tensor]
    memory: Memory
    noise: CounterRandom
    lag: int
    steps: int = 0
    rounds: int = 0

    def tree(self, env: Any) -> dict[str, Any]:
        """Return all of it for a checkpoint, the environment's state included where it has one."""
        world = env.state() if hasattr(env, "state") and hasattr(env, "restore") else None
        noise = (self.noise.keys, self.noise.counters)
        return {**vars(self), "memory": vars(self.memory), "noise": noise, "world": world}

    def take(self, tree: dict[str, Any], env: Any) -> None:
        """Go on from what :meth:`tree` returned."""
        self.steps, self.rounds = tree["steps"], tree["rounds"]
        self.noise.keys, self.noise.counters = (x.cpu() for x in tree["noise"])
        if tree["world"] is None:
            return  # the environment starts new episodes, which were begun already
        env.restore({key: value.to(getattr(env, "device", "cpu")) for key, value in tree["world"].items()})
        self.obs, self.memory = tree["obs"], Memory(**tree["memory"])


@dataclass
class Batch:
    """What is learned from: T steps of n environments; samples of it are sequences of one step."""

    obs: Mapping[str, Tensor]  # (T, n, ...), the previous action among them if it is fed back
    actions: Tensor  # (T, n, ...), as they were sampled
    starts: Tensor  # (T, n) bool, where episodes begin
    log_prob: Tensor  # (T, n)
    values: Tensor  # (T, n)
    advantages: Tensor  # (T, n)
    returns: Tensor  # (T, n)
    counted: Tensor  # (T, n), 0 where an action moved nothing: it came after the end of its episode; else 1
    state: Tensor  # (1, n, state_dim), the memory before the first step; without a memory (T, n, 0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        obs = {key: change(x) for key, x in self.obs.items()}
        return Batch(obs=obs, **{name: change(x) for name, x in vars(self).items() if name != "obs"})


@torch.no_grad()
def collect(net: ActorCritic, env: VectorEnv, run: Run, settings: Any) -> tuple[Batch, dict[str, float]]:
    """Step all n environments ``horizon`` times (T), and return what is learned from, and how the episodes went.

    An environment that answers late (``run.lag`` of 1) is stepped once more.

    Parameters
    ----------
    net : ActorCritic
    env : VectorEnv
        In tensors.
    run : Run
        Goes on to where the round ends.
    settings : PPO
    """
    s, n, device, T = settings, env.num_envs, run.memory.state.device, settings.horizon
    total, at_home = T + run.lag, getattr(env, "device", "cpu")
    net.eval()
    initial = run.memory.state[None] if net.core is not None else run.memory.state.new_zeros(T, n, 0)
    seen: list[tuple[Mapping[str, Tensor], Tensor, Tensor]] = []  # observations, features, starts; one more than T
    acted: list[Tensor] = []
    results: list[tuple[Tensor, ...]] = []  # reward, terminated, truncated, and whether the action moved nothing
    cut: list[tuple[Any, ...]] = []  # of truncated episodes: step, rows, last observation, memory
    ended: list[Tensor] = []  # returns, lengths and successes (3, m)
    u = run.noise.uniform(total * net.head.n_columns).reshape(n, total, -1).to(device)
    for t in range(total):
        obs, memory = run.memory.with_previous(run.obs), run.memory
        features, state = net.features(obs, memory.state, memory.starts)
        seen.append((obs, features, memory.starts))
        acted.append(net.head(features).quantile(u[:, t]))
        following, *result, infos = env.step(bounded(acted[-1], net.action_space).to(at_home))
        reward, terminated, truncated = (x.to(device) for x in result)
        idle = infos["_reset"].to(device) if "_reset" in infos else torch.zeros_like(terminated)
        results.append((reward, terminated, truncated, idle))
        starts = terminated | truncated | idle
        fed = net.previous_of(acted[-1])
        run.obs = on_device(following, device)
        run.memory = Memory(state, fed if fed is None or run.lag else fed.masked_fill(starts[:, None], 0.0), starts)
        if "_final_obs" in infos:
            done = infos["_final_obs"]
            went = (infos["episode"]["r"], infos["episode"]["l"], infos["success"])
            ended.append(torch.stack([x[done].double().cpu() for x in went]))
            rows = (truncated & ~terminated).nonzero()[:, 0]
            if not run.lag and s.bootstrap_timeouts and len(rows):
                last = Memory(state, fed, starts).with_previous(on_device(infos["final_obs"], device))
                cut.append((torch.full_like(rows, t), rows, {key: x[rows] for key, x in last.items()}, state[rows]))
    if not run.lag:
        obs = run.memory.with_previous(run.obs)
        seen.append((obs, net.features(obs, run.memory.state, run.memory.starts)[0], run.memory.starts))
    all_obs = {key: torch.stack([o[key] for o, _, _ in seen]) for key in seen[0][0]}
    features, starts = torch.stack([f for _, f, _ in seen]), torch.stack([b for _, _, b in seen])
    rewards, terminated, truncated, idle = (torch.stack(x[run.lag :]) for x in zip(*results, strict=True))
    values = net.value(features, all_obs)  # (T + 1, n)
    finals = values[1:] if run.lag else _final_values(net, cut, values[1:])
    advantages, returns = gae(
        rewards * s.reward_scale, values[:T], terminated, truncated, values[T], gamma=s.gamma, lambda_=s.lambda_,
        final_values=finals, bootstrap_timeouts=s.bootstrap_timeouts,
    )  # fmt: skip
    # With a lag, call t tells whether the episode was over when the action of call t was already on its way.
    moved = ~(torch.stack([r[1] | r[2] for r in results[:T]]) if run.lag else idle)
    actions = torch.stack(acted[:T])
    batch = Batch(
        obs={key: x[:T] for key, x in all_obs.items()},
        actions=actions,
        starts=starts[:T],
        log_prob=net.head(features[:T]).log_prob(actions),
        values=values[:T],
        advantages=advantages,
        returns=returns,
        counted=moved.float(),
        state=initial,
    )
    means = torch.cat(ended, 1).nanmean(1).tolist() if ended else [math.nan] * 3
    record = {"episodes": sum(x.shape[1] for x in ended), "return": means[0], "length": means[1], "success": means[2]}
    record |= {"reward_min": rewards.min().item(), "reward_max": rewards.max().item()}
    return batch, {**record, "advantage_std": advantages.std().item()}


def _final_values(net: ActorCritic, cut: list[tuple[Any, ...]], like: Tensor) -> Tensor:
    """Return the values (T, n) of the observations that time limits ended with, all evaluated at once."""
    finals = torch.zeros_like(like)
    if cut:
        steps, rows, observations, states = zip(*cut, strict=True)
        obs = {key: torch.cat([o[key] for o in observations]) for key in observations[0]}
        at = torch.cat(steps), torch.cat(rows)
        features, _ = net.features(obs, torch.cat(states), torch.zeros_like(at[1], dtype=torch.bool))
        finals[at] = net.value(features, obs)
    return finals


def on_device(obs: Any, device: torch.device) -> dict[str, Tensor]:
    """Return an observation as a dict of tensors on the learner's device."""
    return {key: x.to(device) for key, x in by_key(obs).items()}
