"""One round of proximal policy optimisation as played: the steps of all copies, what they are worth, and how they went.

:func:`play_round` plays, :func:`valued` makes of it what is learned from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.actor_critic import ActorCritic, by_key
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import gae


@dataclass
class Run:
    """Where a training stands between two rounds, beside the learner itself."""

    obs: dict[str, Tensor]
    previous: Tensor | None
    state: Tensor
    starts: Tensor
    noise: CounterRandom
    lag: int
    steps: int = 0
    rounds: int = 0

    def tree(self, env: Any) -> dict[str, Any]:
        """Return all of it for a checkpoint, the world's state included where the world has one."""
        world = env.state() if hasattr(env, "state") and hasattr(env, "restore") else None
        return {
            "obs": self.obs,
            "previous": self.previous,
            "state": self.state,
            "starts": self.starts,
            "noise": (self.noise.keys, self.noise.counters),
            "steps": self.steps,
            "rounds": self.rounds,
            "world": world,
        }

    def take(self, tree: dict[str, Any], env: Any, device: torch.device) -> None:
        """Go on from what :meth:`tree` returned."""
        self.steps, self.rounds = tree["steps"], tree["rounds"]
        self.noise.keys, self.noise.counters = tree["noise"]
        if tree["world"] is None:
            return  # the environment starts new episodes, which were begun already
        env.restore({key: value.to(getattr(env, "device", "cpu")) for key, value in tree["world"].items()})
        self.obs = {key: value.to(device) for key, value in tree["obs"].items()}
        self.previous = None if tree["previous"] is None else tree["previous"].to(device)
        self.state, self.starts = tree["state"].to(device), tree["starts"].to(device)


@dataclass
class Timeout:
    """Copies whose episodes were cut at one step, with what their value is computed from."""

    step: int
    rows: Tensor
    obs: dict[str, Tensor]
    previous: Tensor | None
    state: Tensor


@dataclass
class Played:
    """One round of T steps in n copies, before anything is known of its worth."""

    obs: dict[str, Tensor]  # (T, n, ...)
    previous: Tensor | None
    actions: Tensor
    features: Tensor
    starts: Tensor
    rewards: Tensor  # of these actions, (T, n)
    terminated: Tensor
    truncated: Tensor
    counted: Tensor | None  # 0 where an action came after the end of its episode
    timeouts: list[Timeout]
    last: Tensor | None  # with a lag, the value of the observation after the last one, (n,)
    state: Tensor  # (n, state_dim), before the first step
    episodes: dict[str, float]


@dataclass
class Batch:
    """What is learned from: one round, (T, n, ...), or samples of it, (m, ...)."""

    obs: dict[str, Tensor]
    previous: Tensor | None
    actions: Tensor
    starts: Tensor
    log_prob: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    counted: Tensor | None
    state: Tensor  # (n, state_dim), before the first step

    def _map(self, change: Callable[[Tensor], Tensor], state: Tensor) -> Batch:
        changed: dict[str, Any] = {"state": state}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                changed[field.name] = {key: change(x) for key, x in value.items()}
            elif field.name != "state":
                changed[field.name] = None if value is None else change(value)
        return Batch(**changed)

    def flattened(self) -> Batch:
        """All samples one after another; without a memory their order does not matter."""
        return self._map(lambda x: x.flatten(0, 1), self.state)

    def take(self, rows: Tensor, sequences: bool) -> Batch:
        """Samples ``rows``, or the whole sequences of the copies ``rows``."""
        if sequences:
            return self._map(lambda x: x[:, rows], self.state[rows])
        return self._map(lambda x: x[rows], self.state)

    def between(self, begin: int, end: int) -> Batch:
        """Views of the samples from ``begin`` to before ``end``."""
        return self._map(lambda x: x[begin:end], self.state)


class Clock:
    """Environment steps per second, without the first round."""

    def __init__(self) -> None:
        self.rounds, self.steps, self.playing, self.total = 0, 0, 0.0, 0.0

    def start(self) -> None:
        """Begin a round."""
        if self.rounds == 1:  # what the first round took was warm-up
            self.steps, self.playing, self.total = 0, 0.0, 0.0
        self.begun = time.perf_counter()

    def played(self) -> None:
        """Say that the round has been played."""
        self.playing += time.perf_counter() - self.begun

    def learned(self, steps: int) -> None:
        """Say that its ``steps`` have been learned from."""
        self.total += time.perf_counter() - self.begun
        self.steps += steps
        self.rounds += 1

    def rates(self) -> dict[str, float]:
        """Return steps per second of playing alone and of everything."""
        return {"simulation": self.steps / self.playing, "training": self.steps / self.total}


@torch.no_grad()
def play_round(
    net: ActorCritic, env: VectorEnv, run: Run, horizon: int, *, precision: Callable[[], Any], bootstrap_timeouts: bool
) -> Played:
    """Play ``horizon`` steps (T) in all copies (n); a world that answers late takes one step more."""
    T, n, lag, device = horizon, env.num_envs, run.lag, run.state.device
    net.eval()
    kept: dict[str, list[Tensor]] = {name: [] for name in ("actions", "features", "starts")}
    observations: dict[str, list[Tensor]] = {key: [] for key in run.obs}
    previous: list[Tensor] = []
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    timeouts: list[Timeout] = []
    ended, last = _Ended(), None
    initial = run.state.clone()
    u = run.noise.uniform((T + lag) * net.columns).reshape(n, T + lag, net.columns).to(device)
    for t in range(T + lag):
        with precision():
            features, state = net.step(run.obs, run.previous, run.state, run.starts)
        actions = net.distribution(features).quantile(u[:, t])
        if t == T:  # late: the value of this observation follows the round's last reward
            last = net.value(features, run.obs, run.previous)
        else:
            for key, value in run.obs.items():
                observations[key].append(value)
            if run.previous is not None:
                previous.append(run.previous)
            for name, value in (("actions", actions), ("features", features), ("starts", run.starts)):
                kept[name].append(value)
        obs, reward, terminated, truncated, infos = env.step(_outward(actions, env))
        results.append((reward.to(device), terminated.to(device), truncated.to(device)))
        done = results[-1][1] | results[-1][2]
        run.obs, run.state, run.starts = on_device(obs, device), state, done
        if run.previous is not None:
            run.previous = net.previous_of(actions)
            if not lag:
                run.previous = run.previous.masked_fill(done[:, None], 0.0)
        if "_final_obs" in infos:
            ended.add(infos)
            cut = results[-1][2] & ~results[-1][1]
            if not lag and bootstrap_timeouts and bool(cut.any()):
                rows = cut.nonzero()[:, 0]
                final = {key: x[rows] for key, x in on_device(infos["final_obs"], device).items()}
                fed = None if run.previous is None else net.previous_of(actions[rows])
                timeouts.append(Timeout(t, rows, final, fed, state[rows]))
    rewards, terminated, truncated = (torch.stack(x) for x in zip(*results[lag:], strict=True))
    return Played(
        obs={key: torch.stack(values) for key, values in observations.items()},
        previous=torch.stack(previous) if previous else None,
        **{name: torch.stack(values) for name, values in kept.items()},
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        # With a lag, call t tells whether the episode was over when the action of call t was already on its way.
        counted=None if not lag else (~torch.stack([r[1] | r[2] for r in results[:T]])).float(),
        timeouts=timeouts,
        last=last,
        state=initial,
        episodes=ended.record(),
    )


@torch.no_grad()
def valued(
    net: ActorCritic,
    played: Played,
    run: Run,
    *,
    precision: Callable[[], Any],
    gamma: float,
    lambda_: float,
    reward_scale: float,
    bootstrap_timeouts: bool,
) -> Batch:
    """Return a round that ends at ``run`` with values, advantages and the log-probabilities it was played with."""
    with precision():
        values = net.value(played.features, played.obs, played.previous)  # (T, n)
        if played.last is None:
            last = _value_of(net, run.obs, run.previous, run.state, run.starts)
            finals = _final_values(net, played.timeouts, values)
        else:
            last = played.last
            finals = torch.cat([values[1:], last[None]])
    advantages, returns = gae(
        played.rewards * reward_scale,
        values,
        played.terminated,
        played.truncated,
        last,
        gamma=gamma,
        lambda_=lambda_,
        final_values=finals,
        bootstrap_timeouts=bootstrap_timeouts,
    )
    log_prob = net.distribution(played.features).log_prob(played.actions)
    return Batch(
        played.obs, played.previous, played.actions, played.starts, log_prob, values, advantages, returns,
        played.counted, played.state,
    )  # fmt: skip


def on_device(obs: Any, device: torch.device) -> dict[str, Tensor]:
    """Return an observation as a dict of tensors on the learner's device."""
    return {key: x.to(device) for key, x in by_key(obs).items()}


def _outward(actions: Tensor, env: Any) -> Tensor:
    """What is sent to the environment, which clamps by itself; the raw sample stays with the learner."""
    if not isinstance(env.single_action_space, spaces.Box):
        actions = actions.long()
    return actions.to(getattr(env, "device", "cpu"))


def _value_of(
    net: ActorCritic, obs: dict[str, Tensor], previous: Tensor | None, state: Tensor, starts: Tensor
) -> Tensor:
    features, _ = net.step(obs, previous, state, starts)
    return net.value(features, obs, previous)


def _final_values(net: ActorCritic, timeouts: list[Timeout], values: Tensor) -> Tensor:
    """Values (T, n) of the observations that time limits ended with, all evaluated at once."""
    finals = torch.zeros_like(values)
    if timeouts:
        obs = {key: torch.cat([t.obs[key] for t in timeouts]) for key in timeouts[0].obs}
        fed = torch.cat([t.previous for t in timeouts if t.previous is not None]) if net.n_previous else None
        state = torch.cat([t.state for t in timeouts])
        found = _value_of(net, obs, fed, state, torch.zeros(len(state), dtype=torch.bool, device=state.device))
        at = torch.cat([torch.full_like(t.rows, t.step) for t in timeouts])
        finals[at, torch.cat([t.rows for t in timeouts])] = found
    return finals


class _Ended:
    """Returns, lengths and successes of the episodes that ended in a round."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def add(self, infos: dict[str, Any]) -> None:
        rows = infos["_final_obs"].nonzero()[:, 0]
        success = infos.get("success")
        known = torch.full((len(rows),), math.nan) if success is None else success[rows].float().cpu()
        episode = infos["episode"]
        self.found.append(torch.stack([episode["r"][rows].float().cpu(), episode["l"][rows].float().cpu(), known]))

    def record(self) -> dict[str, float]:
        if not self.found:
            return {"episodes": 0, "return": math.nan, "length": math.nan, "success": math.nan}
        all_ = torch.cat(self.found, 1)
        r, length, success = all_.double().nanmean(1).tolist()
        return {"episodes": all_.shape[1], "return": r, "length": length, "success": success}
