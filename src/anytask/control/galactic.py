"""Galactic: one recurrent policy for mobile rearrangement, learned end to end in thousands of batched worlds.

Departures: the grasp column is one choice out of release, keep and grasp, after the three things the simulator makes of
it; the choice itself, and not what it is thresholded to, enters the log-probability. With overlapped physics an action
that was on its way when its episode had already ended is left out of the loss. Processes share gradients, not
preemption: DD-PPO's early cut of stragglers is not there. "small" has no memory: everything in the disc robot's world
is sensed, and a GRU takes several times as long on a CPU. The weight of the value loss and the widths of embeddings,
which the paper leaves open, are those usual in its code base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gymnasium.vector import AutoresetMode, VectorEnv

from anytask.control.adapters import batched_class_of, make
from anytask.control.envs.rearrangement import Rearrangement
from anytask.control.ppo import PPO
from anytask.control.ppo.network import NetworkSettings
from anytask.control.rollout import EpisodeResults, evaluate
from anytask.control.stepping import OverlappedStepper
from anytask.core.checks import check_counts
from anytask.core.progress import Progress
from anytask.core.settings import flag, group, of_kind

__all__ = ["Galactic"]


class GalacticNetwork(NetworkSettings):
    """The paper's network."""

    hidden = ()
    activation = "relu"
    core = "gru"
    core_width = 512
    share = True
    discrete = "auto"
    previous_action = True
    trunk = "half-resnet18"
    trunk_width = 512
    embedding = 32


class Galactic(PPO):
    """Galactic (Berges et al., 2023): rearrangement by plain reinforcement learning, made feasible by fast simulation.

    One network drives, reaches, grasps, carries and puts down; there are no separate skills, no planner and nothing in
    it that knows of the task. What makes that learnable is the number of steps: a simulator without dynamics, all
    worlds in one batch (:class:`~anytask.control.envs.rearrangement.Rearrangement`), physics overlapped with rendering,
    episode starts spread over time, and samples so cheap that each is used once or twice.

    Pick it for mobile manipulation, or any task that a batched simulator steps at tens of thousands of steps a second.
    It is :class:`~anytask.control.ppo.PPO` with the paper's network and settings, and takes every environment that PPO
    takes.

    The defaults are the paper's. The preset ``small`` is for the disc robot of ``anytask/Rearrangement-v0``, which
    senses everything it needs, on one core: 512 environments, horizon 32, two epochs of four mini-batches, a constant
    rate of 1e-3, discount 0.97, two layers of 64 and no memory (``network={"core": "gru"}`` for one).

    Parameters
    ----------
    overlapped : bool, default True
        Let physics run in the background, so that what is seen is one step old. "small": off.
    stagger : bool, default True
        Cut the first episode of environment i by i steps (modulo its length), where the environment can.
    reward : mapping of str to float
        Attributes of the environment that are replaced while learning, such as ``{"pick_bonus": 0.0}`` (an ablation of
        reward terms); they are put back afterwards.
    network : GalacticNetwork or mapping
        Half-width ResNet-18 with group normalization on RGB and depth to 512 features, embeddings of 32 for sensors and
        previous action, GRU of 512; ``discrete="auto"``: the action columns that take a few values in the environment.
    num_envs, horizon, epochs, minibatches, lr, schedule, ...
        As in :class:`~anytask.control.ppo.PPO`, with the paper's values: 128 (per process), 64, 1, 2, 3.5e-4 falling
        linearly, entropy 0.001, value loss 0.5, gradient norm 2, and time-outs that are failures.

    Attributes
    ----------
    network_, history_, steps_, throughput_
        As in PPO.

    Examples
    --------
    >>> robot = Galactic.from_preset("small", num_envs=64, device="cpu").train("anytask/Rearrangement-v0", 4096)
    >>> bool(robot.evaluate("anytask/Rearrangement-v0", episodes=64).lengths.max() <= 60)
    True
    >>> sorted(robot.throughput_)
    ['simulation', 'training']

    References
    ----------
    Berges, Szot, Chaplot, Gokaslan, Mottaghi, Batra, Undersander, 2023, "Galactic: Scaling End-to-End Reinforcement
    Learning for Rearrangement at 100k Steps-Per-Second", CVPR, arXiv:2306.07552.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "overlapped": False, "num_envs": 512, "horizon": 32, "epochs": 2, "minibatches": 4, "lr": 1e-3,
            "schedule": "constant", "gamma": 0.97,
            "network": {
                "hidden": (64, 64), "activation": "tanh", "core": "none", "core_width": 64, "trunk": "cnn",
                "trunk_width": 64, "embedding": 0,
            },
        },
    }  # fmt: skip

    overlapped: bool = flag(True, "let physics run in the background, so that what is seen is one step old")
    stagger: bool = flag(True, "cut first episodes, so that resets spread over time")
    reward: Mapping[str, float] = of_kind(
        {}, (Mapping,), "a mapping", "attributes of the environment that are replaced while learning"
    )
    network: GalacticNetwork = group(GalacticNetwork, "layers, memory, action heads and encoder of images")
    num_envs = 128
    horizon = 64
    epochs = 1
    minibatches = 2
    lr = 3.5e-4
    schedule = "linear"
    value_coefficient = 0.5
    entropy_coefficient = 0.001
    max_grad_norm = 2.0
    bootstrap_timeouts = False

    # -- training -------------------------------------------------------------------------------------------------

    def train(
        self, env: Any, total_steps: int, *, env_options: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Learn for ``total_steps`` environment steps; see :meth:`anytask.control.ppo.PPO.train`."""
        made = self._made(env, env_options)
        # A stepper that is late already stays as it is, and one that restarts in a step of its own cannot be late.
        late = getattr(made, "lag", 0) or made.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP
        world = made if late or not self.overlapped else OverlappedStepper(made)
        try:
            with _replaced(made.unwrapped, self.reward):
                return super().train(world, total_steps, **options)
        finally:
            if made is not env:
                world.close()

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
        progress: Progress | None = None,
        **options: Any,
    ) -> EpisodeResults:
        """Return what the policy reaches.

        Parameters
        ----------
        env : str, callable, gymnasium.vector.VectorEnv
            As in :func:`anytask.control.make`.
        episodes : int or "all"
            So many, as in :func:`anytask.control.evaluate`; or every episode of the environment's list once
            (``order="once"``, as which an id is made), by any number of parallel environments, and 100 episodes where
            an environment has no list.
        deterministic : bool, default True
            Take the best action. In the published evaluation actions are sampled, which reaches .1 to .2 more
            success: ``deterministic=False``.
        seed, progress
            As in :func:`anytask.control.evaluate`.
        **options
            Handed to an environment that is not made yet.
        """
        if isinstance(episodes, str) and episodes == "all":
            listed = issubclass(batched_class_of(env) or type(getattr(env, "unwrapped", env)), Rearrangement)
            episodes = "all" if listed else 100
            if listed and not isinstance(env, VectorEnv):
                env, options = make(env, self.num_envs, order="once", **options), {}
        return evaluate(self, env, episodes, seed=seed, deterministic=deterministic, progress=progress, **options)

    def transfer(
        self, here: Any, there: Any, episodes: int = 200, *, seed: int = 0, deterministic: bool = True
    ) -> Transfer:
        """Check the policy in another simulator of the same task.

        Both environments must have the spaces that the policy was trained with; the same seed starts both.
        """
        check_counts(episodes=episodes)
        n = min(episodes, self.num_envs)
        envs = [env if isinstance(env, VectorEnv) else make(env, n) for env in (here, there)]
        for env in envs:
            self._settle(make(env))
        return Transfer(*(evaluate(self, env, episodes, seed=seed, deterministic=deterministic) for env in envs))


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
