"""PPO against Stable-Baselines3 on the same environments with the same settings: steps per second and returns.

One thread and one process each, CPU seconds, one after the other in the same run; policies are then evaluated on the
same 100 episodes. Plain Gymnasium ids run as loops over single environments on both sides, so that the environment
bounds the ratio; the batched environment is stepped in tensors by us, and given to Stable-Baselines3 in both ways it
can take it: as single environments (one round, for the speed alone), and as our batch behind a thin wrapper of arrays.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from anytask.control import evaluate, make
from anytask.control.ppo import PPO


@dataclass(frozen=True)
class Case:
    """An environment, the settings of both learners, and how many steps they learn."""

    env: str
    steps: int
    n_envs: int
    horizon: int
    minibatches: int
    epochs: int
    gamma: float
    lambda_: float
    lr: float = 1e-3


# The settings of the first two are those published for these environments with Stable-Baselines3.
CASES = (
    Case("CartPole-v1", 40_000, 8, 32, 1, 20, 0.98, 0.8),
    Case("Pendulum-v1", 40_960, 4, 1024, 64, 10, 0.9, 0.95),
    Case("anytask/Rearrangement-v0", 400_000, 512, 32, 4, 2, 0.97, 0.95),
)


def ours(case: Case, seed: int) -> tuple[Any, float]:
    """Train; return the policy and CPU seconds."""
    settings = {"num_envs": case.n_envs, "horizon": case.horizon, "minibatches": case.minibatches, "seed": seed}
    settings |= {"epochs": case.epochs, "gamma": case.gamma, "lambda_": case.lambda_, "lr": case.lr, "device": "cpu"}
    PPO(**settings).train(case.env, case.n_envs * case.horizon)  # warm-up
    begin = time.process_time()
    policy = PPO(**settings).train(case.env, case.steps)
    return policy, time.process_time() - begin


class _Predicting:
    """A policy of Stable-Baselines3 as one of ours."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def act(self, obs: torch.Tensor, *, deterministic: bool = True) -> torch.Tensor:
        return torch.as_tensor(self.model.predict(obs.numpy(), deterministic=deterministic)[0])


def theirs(case: Case, seed: int, batched: bool) -> tuple[Any, float]:
    """Train the peer; return its policy and CPU seconds."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    env = _as_vec_env(case) if batched else make_vec_env(case.env, n_envs=case.n_envs, seed=seed)
    settings = {"n_steps": case.horizon, "batch_size": case.n_envs * case.horizon // case.minibatches, "verbose": 0}
    settings |= {"n_epochs": case.epochs, "gamma": case.gamma, "gae_lambda": case.lambda_, "learning_rate": case.lr}

    def model() -> Any:
        return stable_baselines3.PPO("MlpPolicy", env, device="cpu", seed=seed, **settings)

    learner = model()
    if not case.env.startswith("anytask/") or batched:
        model().learn(case.n_envs * case.horizon)  # warm-up
    steps = case.steps
    if case.env.startswith("anytask/") and not batched:
        steps = case.n_envs * case.horizon  # one round tells the speed, and more would take minutes
    begin = time.process_time()
    learner.learn(steps)
    return _Predicting(learner), (time.process_time() - begin) * case.steps / steps


def _as_vec_env(case: Case) -> Any:
    from stable_baselines3.common.vec_env import VecEnv

    class Batch(VecEnv):
        def __init__(self) -> None:
            self.batch = make(case.env, case.n_envs)
            self.batch.reset(seed=0)
            super().__init__(case.n_envs, self.batch.single_observation_space, self.batch.single_action_space)

        def reset(self) -> np.ndarray:
            return self.batch.reset()[0].numpy()

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            obs, reward, terminated, truncated, infos = self.batch.step(torch.as_tensor(self.actions))
            told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            if "_final_obs" in infos:
                for row in infos["_final_obs"].nonzero()[:, 0].tolist():
                    told[row] = {"TimeLimit.truncated": bool(truncated[row])}
                    told[row]["terminal_observation"] = infos["final_obs"][row].numpy()
            return obs.numpy(), reward.numpy(), (terminated | truncated).numpy(), told

        def close(self) -> None:
            self.batch.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self.batch, attr_name, None)] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Batch()


def compare(case: Case, seed: int = 0) -> dict[str, Any]:
    """Train both on one case; return steps per CPU second, mean returns of 100 episodes, and the ratios."""
    sides = {"ours": lambda: ours(case, seed), "sb3": lambda: theirs(case, seed, False)}
    if case.env.startswith("anytask/"):
        sides["sb3_on_our_batch"] = lambda: theirs(case, seed, True)
    found: dict[str, Any] = {"env": case.env, "steps": case.steps, "n_envs": case.n_envs}
    for name, train in sides.items():
        policy, seconds = train()
        results = evaluate(policy, make(case.env, 20), 100, seed=1)
        found[name] = {
            "steps_per_second": round(case.steps / seconds),
            "return": round(float(results.returns.mean()), 2),
        }
    speed = found["ours"]["steps_per_second"]
    found["ratios"] = {name: round(speed / found[name]["steps_per_second"], 2) for name in sides if name != "ours"}
    return found


def ppo_against_sb3(seed: int = 0) -> list[dict[str, Any]]:
    """Run all cases."""
    torch.set_num_threads(1)
    return [compare(case, seed) for case in CASES]


if __name__ == "__main__":
    import json

    print(json.dumps(ppo_against_sb3(), indent=2))
