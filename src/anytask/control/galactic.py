"""Galactic: one recurrent policy for mobile rearrangement, learned end to end in thousands of batched worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gymnasium.vector import VectorEnv

from anytask.control.adapters import make
from anytask.control.envs.rearrangement import play_all
from anytask.control.ppo import PPO
from anytask.control.rollout import EpisodeResults, evaluate
from anytask.control.stepping import stepper

__all__ = ["Galactic"]


class Galactic(PPO):
    """Galactic (Berges et al., 2023): rearrangement by plain reinforcement learning, made feasible by fast simulation.

    One network drives, reaches, grasps, carries and puts down; there are no separate skills, no planner and nothing in
    it that knows of the task. What makes that learnable is the number of steps: a simulator without dynamics, all
    worlds in one batch (:class:`~anytask.control.envs.rearrangement.Rearrangement`), physics overlapped with rendering,
    episode starts spread over time, and samples so cheap that each is used once or twice.

    Pick it for mobile manipulation, or any task that a batched simulator steps at tens of thousands of steps a second.
    It is :class:`~anytask.control.ppo.PPO` with the paper's network and settings, and takes every environment that PPO
    takes.

    Parameters
    ----------
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None. "paper": 128 worlds per process with 128 x 128 pictures, GRU of 512. "small": the
        disc robot of ``anytask/Rearrangement-v0``, which senses everything it needs, on one core.
    overlapped : bool, optional
        Let physics run in the background, so that what is seen is one step old (paper: on). "small": off.
    stagger : bool, default True
        Cut the first episode of copy i by i steps (modulo its length), where the environment can.
    discrete : "auto", None, or mapping of int to sequence of float
        Action columns with a few values, the others being Gaussian. "auto": what the environment names in
        ``discrete_actions``, and for robots of this package release, keep or grasp (-1, 0, 1) and, where there is one,
        stop (-1, 1).
    reward : mapping of str to float, optional
        Attributes of the environment that are replaced while learning, such as ``{"pick_bonus": 0.0}`` (an ablation of
        reward terms); they are put back afterwards.
    n_envs, horizon, epochs, minibatches : int
        Paper: 128 (per process), 64, 1, 2. "small": 512, 32, 2, 4.
    lr, schedule : float, str
        Paper: 3.5e-4, falling linearly. "small": 1e-3, constant.
    gamma, lambda_, clip : float
        0.99 (0.97 in "small"), 0.95, 0.2.
    entropy_coefficient, value_coefficient, max_grad_norm : float
        0.001, 0.5, 2.0.
    bootstrap_timeouts : bool
        False, as in the paper's code: running out of time is a failure.
    hidden, activation, core, core_width, previous_action, trunk, trunk_width, embedding
        The network. Paper: half-width ResNet-18 with group normalisation on RGB and depth to 512 features, embeddings
        of 32 for sensors and previous action, GRU of 512. "small": two layers of 64, no memory; give ``core="gru"`` for
        one.
    **settings
        Everything else that :class:`~anytask.control.ppo.PPO` takes, ``seed``, ``device`` and ``blind`` among it.

    Attributes
    ----------
    network_, history_, steps_, throughput_
        As in PPO.

    Examples
    --------
    >>> robot = Galactic(preset="small", n_envs=64, seed=0, device="cpu").train("anytask/Rearrangement-v0", 4096)
    >>> bool(robot.evaluate("anytask/Rearrangement-v0", episodes=64).lengths.max() <= 60)
    True
    >>> sorted(robot.throughput_)
    ['simulation', 'training']

    Departures from the paper
    -------------------------
    The grasp column is one choice out of release, keep and grasp, after the three things the simulator makes of it; the
    choice itself, and not what it is thresholded to, enters the log-probability. With overlapped physics an action that
    was on its way when its episode had already ended is left out of the loss. Processes share gradients, not
    preemption: DD-PPO's early cut of stragglers is not there. "small" has no memory: everything in the disc robot's
    world is sensed, and a GRU takes several times as long on a CPU. The weight of the value loss and the widths of
    embeddings, which the paper leaves open, are those usual in its code base.

    References
    ----------
    Berges, Szot, Chaplot, Gokaslan, Mottaghi, Batra, Undersander, 2023, "Galactic: Scaling End-to-End Reinforcement
    Learning for Rearrangement at 100k Steps-Per-Second", CVPR, arXiv:2306.07552.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "overlapped": True, "n_envs": 128, "horizon": 64, "epochs": 1, "minibatches": 2, "lr": 3.5e-4,
            "schedule": "linear", "gamma": 0.99, "lambda_": 0.95, "clip": 0.2, "entropy_coefficient": 0.001,
            "value_coefficient": 0.5, "max_grad_norm": 2.0, "bootstrap_timeouts": False, "hidden": (),
            "activation": "relu", "core": "gru", "core_width": 512, "previous_action": True, "share": True,
            "trunk": "half-resnet18", "trunk_width": 512, "embedding": 32,
        },
        "small": {
            "overlapped": False, "n_envs": 512, "horizon": 32, "epochs": 2, "minibatches": 4, "lr": 1e-3,
            "schedule": "constant", "gamma": 0.97, "lambda_": 0.95, "clip": 0.2, "entropy_coefficient": 0.001,
            "value_coefficient": 0.5, "max_grad_norm": 2.0, "bootstrap_timeouts": False, "hidden": (64, 64),
            "activation": "tanh", "core": "none", "core_width": 64, "previous_action": True, "share": True,
            "trunk": "cnn", "trunk_width": 64, "embedding": 0,
        },
    }  # fmt: skip

    def __init__(
        self,
        *,
        preset: str = "paper",
        overlapped: bool | None = None,
        stagger: bool = True,
        discrete: str | Mapping[int, Sequence[float]] | None = "auto",
        reward: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        if preset not in self.PRESETS:
            raise ValueError(f"preset must be one of {sorted(self.PRESETS)}, got {preset!r}")
        chosen = {k: v for k, v in settings.items() if v is not None or k not in self.PRESETS[preset]}
        filled = {**self.PRESETS[preset], **chosen}
        overlap = filled.pop("overlapped")
        if not isinstance(discrete, (str, Mapping, type(None))) or (isinstance(discrete, str) and discrete != "auto"):
            raise ValueError(f"discrete must be 'auto', None or a mapping of columns to values, got {discrete!r}")
        super().__init__(**filled, discrete=None if isinstance(discrete, str) else discrete)
        self.preset, self.stagger = preset, stagger
        self.overlapped = overlap if overlapped is None else overlapped
        self.discrete, self.reward = discrete, dict(reward or {})
        self.params |= {
            "preset": preset,
            "overlapped": self.overlapped,
            "stagger": stagger,
            "discrete": discrete,
            "reward": self.reward,
        }

    # -- training -------------------------------------------------------------------------------------------------

    def train(
        self, env: Any, total_steps: int, *, env_options: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Learn for ``total_steps`` environment steps; see :meth:`anytask.control.ppo.PPO.train`."""
        made = self._made(env, env_options)
        # A stepper that is late already stays as it is.
        world = stepper(made, self.overlapped and not getattr(made, "lag", 0))
        try:
            with _replaced(made.unwrapped, self.reward):
                return super().train(world, total_steps, **options)
        finally:
            if made is not env:
                world.close()

    def _settle(self, env: VectorEnv) -> None:
        if self.params["discrete"] == "auto":
            self.params["discrete"] = _few_values(env.unwrapped)
        super()._settle(env)

    def _begin(self, env: VectorEnv, group: Any) -> Any:
        run = super()._begin(env, group)
        if self.stagger and hasattr(env.unwrapped, "stagger"):
            env.unwrapped.stagger()
        return run

    # -- evaluation -----------------------------------------------------------------------------------------------

    def evaluate(
        self,
        env: Any,
        episodes: int | str = "all",
        *,
        seed: int = 0,
        deterministic: bool = True,
        progress: Callable[[float], None] | None = None,
        **options: Any,
    ) -> EpisodeResults:
        """Return what the policy reaches.

        Parameters
        ----------
        env : str, callable, gymnasium.vector.VectorEnv
            As in :func:`anytask.control.make`.
        episodes : int or "all"
            So many, as in :func:`anytask.control.evaluate`; or every episode of the environment's list once
            (``order="once"``), in any number of copies. For "all" an id is made with ``order="once"``.
        seed, deterministic, progress
            As in :func:`anytask.control.evaluate`.
        **options
            Handed to an environment that is not made yet.
        """
        if episodes != "all":
            return evaluate(
                self, env, int(episodes), seed=seed, deterministic=deterministic, progress=progress, **options
            )
        made: Any = env if isinstance(env, VectorEnv) else make(env, self.n_envs, order="once", **options)
        return play_all(self, made, deterministic=deterministic, progress=progress)

    def transfer(
        self, here: Any, there: Any, episodes: int = 200, *, seed: int = 0, deterministic: bool = True
    ) -> Transfer:
        """Check the policy in another simulator of the same task.

        Both environments must have the spaces that the policy was trained with; the same seed starts both.
        """
        results = []
        for env in (here, there):
            made = env if isinstance(env, VectorEnv) else make(env, min(episodes, self.n_envs))
            self._settle(make(made))
            results.append(evaluate(self, made, episodes, seed=seed, deterministic=deterministic))
        return Transfer(*results)


@dataclass(frozen=True)
class Transfer:
    """What a policy reaches where it was trained and elsewhere."""

    here: EpisodeResults
    there: EpisodeResults

    @property
    def drop(self) -> float:
        """Success rate lost on the way."""
        return self.here.success_rate - self.there.success_rate

    def summary(self) -> str:
        """Say it in one line."""
        return f"here: {self.here.summary()}; there: {self.there.summary()}"


def _few_values(env: Any) -> dict[int, tuple[float, ...]] | None:
    """Which action columns of an environment take a few values only."""
    named = getattr(env, "discrete_actions", None)
    if named is not None:
        return {int(column): tuple(map(float, values)) for column, values in named.items()}
    robot = getattr(env, "robot", None)
    if robot is None:
        return None
    stop = {int(robot.action_dim) - 1: (-1.0, 1.0)} if robot.stops else {}
    return {0: (-1.0, 0.0, 1.0), **stop}


@contextmanager
def _replaced(env: Any, values: Mapping[str, float]) -> Iterator[None]:
    """Give attributes of an environment other values for a while."""
    if missing := [name for name in values if not hasattr(env, name)]:
        raise ValueError(f"{type(env).__name__} has no {', '.join(missing)} to replace")
    before = {name: getattr(env, name) for name in values}
    try:
        for name, value in values.items():
            setattr(env, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(env, name, value)
