"""RL-100: a diffusion policy from demonstrations, improved by offline, then by short online reinforcement learning.

With ``checkpoint=folder`` each stage saves itself there; call the same methods again after a crash and finished stages
are read back, the interrupted one goes on bit for bit as if nothing had happened (its last ``checkpoint_every`` steps,
or the running rollout, are lost). The gate is as good as the critics are: where they are wrong it accepts what fails.
Look at the success of what is delivered, not at the gate.

Departures: no entropy bonus, since the noise of a denoising step is fixed by the schedule, so that the bonus has no
gradient. The encoder stays frozen online too, since recorded chains and the student depend on its features. The default
denoiser is a perceptron; a one-dimensional U-Net or transformer goes in by ``diffusion.denoiser``. Clean actions are
clipped, and the noise beside them stays as predicted, as the released scheduler keeps it. At a clipped entry the
gradient then has the other sign than elsewhere; with ``diffusion={"noise": "recomputed"}`` it is 0.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.acting import require_episodes
from anytask.control.parts.checkpoint import Checkpoint, training_of
from anytask.control.rl100 import settings
from anytask.control.rl100.diffusion import Chain
from anytask.control.rl100.policy import ChunkPolicy
from anytask.control.rl100.stages import (
    Decided,
    Learner,
    Recorder,
    Rollout,
    Run,
    distil_student,
    imitate,
    improve_behind_gate,
    improve_by_playing,
    joined,
)
from anytask.control.rl100.world import ActionRange, Transitions, Window
from anytask.control.rollout import played
from anytask.core.checks import NotFinite, check_counts, require_finite_weights
from anytask.core.errors import instance_of
from anytask.core.files import as_path
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive
from anytask.core.settings import flag, group, real, texts
from anytask.datasets.episode_files import load_episodes, save_episodes
from anytask.datasets.episodes import Episodes

__all__ = ["RL100"]

STAGES = ("imitation", "offline", "online", "student")
Folder = str | os.PathLike[str] | None


class Stage(NamedTuple):
    """Where :meth:`RL100.improve` is: the stage just finished, and the episodes played for it so far."""

    name: str
    episodes: int


class RL100(ChunkPolicy):
    """RL-100 (Lei et al., 2025).

    Takes a handful of demonstrations and a sparse success reward to a policy that nearly always succeeds, in three
    stages: imitation by a diffusion policy, policy optimization on recorded data behind an evaluation gate, and a short
    phase of playing. A last step distils the many network calls per action into one. Each stage starts from the one
    before, and each can be left out.

    Pick it when demonstrations exist but are not good enough by themselves (too slow, too noisy, too few), when playing
    costs money, and when a control loop wants actions fast. What it sees (states, images, point clouds, several at
    once) is a matter of the encoder alone.

    Parameters
    ----------
    horizon, n_obs, n_executed : int, default 5, 2, 4
        Actions per chunk, observations per window, and actions carried out per chunk. A chunk starts at the window's
        oldest step, so ``horizon >= n_obs - 1 + n_executed``. Single actions: 1, 1, 1.
    gamma, reward_scale, bootstrap_timeouts, max_grad_norm
        Of both reinforcement-learning stages; see the table of settings.
    encoder, diffusion, imitation, critics, dynamics, offline, online, student
        Groups of settings, as objects or mappings; see :mod:`anytask.control.rl100.settings`.
    use : {"teacher", "student"}, default "teacher"
        Who acts. Can be changed at any time.
    best_of : int, default 1
        Draw this many candidates and act by the one with the highest Q.
    stages : sequence of str, default ("imitation", "offline", "online", "student")
        What :meth:`improve` runs.
    seed, device
        As in :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    encoder_, net_ : ObservationEncoder, nn.Module
        The policy's encoder and denoiser.
    world_ : World or None
        Critics ``iql`` and ``dynamics`` after the offline stage.
    value_, student_ : nn.Module or None
        Value network after the online stage; the student.
    gate_log_ : list of GateCheck
        Every comparison of the last offline stage.
    online_log_ : list of dict
        KL divergence, learning rate, decisions, episodes and success of each online round.

    Examples
    --------
    Demonstrations at mixed speed often run out of time; the offline stage learns from the rewards which ones were fast.

    >>> from anytask.control import demonstrations
    >>> demos = demonstrations("anytask/Reach-v0", 40, speed=(0.25, 1.0), noise=0.3)
    >>> short = {"imitation": {"epochs": 30}, "critics": {"epochs": 5}, "dynamics": {"steps": 50}}
    >>> policy = RL100.from_preset("small", **short, offline={"steps": 20}).fit(demos).improve_offline(demos)
    >>> len(policy.gate_log_), policy.act(torch.zeros(3, 3)).shape
    (2, torch.Size([3, 2]))

    References
    ----------
    Lei et al., 2025, "RL-100: Performant Robotic Manipulation with Real-World Reinforcement Learning",
    arXiv:2510.14830.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": settings.SMALL}

    gamma: float = real(0.99, "discount per environment step", at_least=0, at_most=1)
    reward_scale: float = real(1.0, "multiplies rewards for learning", above=0)
    bootstrap_timeouts: bool = flag(True, "value what comes after a time limit; False: that is a failure")
    max_grad_norm: float = real(0.5, "norm to which gradients are clipped, offline and online", above=0)
    imitation: settings.ImitationSettings = group(settings.ImitationSettings, "stage 1")
    offline: settings.OfflineSettings = group(settings.OfflineSettings, "stage 2")
    online: settings.OnlineSettings = group(settings.OnlineSettings, "stage 3")
    student: settings.StudentSettings = group(settings.StudentSettings, "the one-step student")
    stages: Sequence[str] = texts(STAGES, "stages that improve() runs", options=STAGES)

    online_log_: list[dict[str, float]]

    # -- the stages -----------------------------------------------------------------------------------------------

    def fit(
        self,
        episodes: Episodes,
        *,
        scale: Episodes | None = None,
        progress: Progress | None = None,
        checkpoint: Folder = None,
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn encoder and policy from demonstrations, from scratch, by denoising recorded actions.

        ``L_IL = E ||eps - eps_theta(sqrt(alpha_bar) a + sqrt(1 - alpha_bar) eps, tau, c)||^2`` on features ``c =
        phi(o)`` of a window of observations, with the encoder's regularizers. The encoder is frozen afterwards.

        Parameters
        ----------
        episodes : Episodes
        scale : Episodes, optional
            The data whose ranges scale vectors and actions; by default ``episodes``. When episodes of a policy join the
            demonstrations, give these, so that its largest actions do not widen the range round after round.
        progress : callable, optional
            Told the finished share.
        checkpoint : path, optional
            Folder to save to and to go on from.
        checkpoint_every : int, default 1000
            Optimizer steps between two saves.
        """
        require_episodes(episodes, "the episodes")
        if scale is not None:
            require_episodes(scale, "scale")
        stage, bounds = getattr(self, "stage_", 0), self.action_bounds_

        def learn(run: Run) -> None:
            self.shapes_ = {k: tuple(episodes.shape_of(k)) for k in sorted(episodes.keys)}
            self.action_dim_, self.gate_log_, self.online_log_ = episodes.action_dim, [], []
            self._build()
            ranged = (scale or episodes).statistics()
            ranges = {k: (torch.as_tensor(v.low), torch.as_tensor(v.high)) for k, v in ranged.items()}
            self.scale_ = ActionRange(*ranges.pop("action"), self.diffusion.action_share).to(self._device)
            self.encoder_.set_ranges(ranges)
            self.encoder_, self.net_ = imitate(self, self._decisions(episodes), run)

        with self._refit():
            self.stage_ = stage
            if scale is not None:  # the same task goes on
                self.action_bounds_ = bounds
            return self._run("imitation", episodes.fingerprint, learn, progress, checkpoint, checkpoint_every)

    def improve_offline(
        self,
        episodes: Episodes,
        *,
        progress: Progress | None = None,
        checkpoint: Folder = None,
        checkpoint_every: int = 100,
    ) -> Self:
        """Fit critics and dynamics to recorded episodes and improve the policy behind the gate; the encoder is frozen.

        Critics Q, V by implicit Q-learning and an ensemble of dynamics, all on features. Then, step after step: draw
        denoising chains from the policy OLD, judge their last states by ``A = min Q - V`` (normalized), and improve the
        candidate on the clipped surrogate, one optimizer step per denoising step, which is a Gaussian policy of its
        own. Every ``gate_every`` steps the candidate's value in the learned world is compared with the best one so far;
        only if it is better does OLD become the candidate. OLD is delivered.

        Parameters
        ----------
        episodes : Episodes
            With rewards: demonstrations, roll-outs of the policy, failures included.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; policy steps between two saves.
        """
        self._check_data(episodes)
        _warn_of_rewards(episodes)
        _warn_of_few(self.offline.steps, 5, "step")

        def learn(run: Run) -> None:
            world = self._new_world()
            self.net_, self.gate_log_ = improve_behind_gate(self, world, self._transitions(episodes), run)
            self.world_ = world

        return self._run("offline", episodes.fingerprint, learn, progress, checkpoint, checkpoint_every)

    def improve_online(
        self,
        env: Any,
        episodes: int,
        *,
        progress: Progress | None = None,
        checkpoint: Folder = None,
        checkpoint_every: int = 1,
    ) -> Self:
        """Play whole episodes with their chains on record and improve, for at most ``episodes`` of them.

        Advantages by GAE, the same surrogate over all denoising steps, a value network that starts from V, and a
        KL-adaptive learning rate. A student that exists is trained along.

        Parameters
        ----------
        env : vector environment, or whatever :func:`anytask.control.make` takes
            An id is played by up to 32 parallel environments, each of them one episode at a time.
        episodes : int
            Most episodes to play.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; rounds of playing between two saves.
        """
        self._check_fitted()
        check_counts(episodes=episodes)

        def learn(run: Run) -> None:
            world = self._vector_env(env, episodes)
            value = self.value_ or (self._new_value() if self.world_ is None else self.world_.iql.v_net)
            learner = Learner(self, value)
            log = improve_by_playing(self, learner, partial(self._rollout, world), episodes, run)
            _warn_of_few(len(log), 3, "round")
            self.net_, self.value_, self.online_log_ = learner.net, learner.value, self.online_log_ + log
            self.student_ = learner.student and learner.average.module

        return self._run("online", f"{episodes} episodes", learn, progress, checkpoint, checkpoint_every)

    def distil(
        self,
        episodes: Episodes,
        *,
        progress: Progress | None = None,
        checkpoint: Folder = None,
        checkpoint_every: int = 1000,
    ) -> Self:
        """Train a student that acts with one network call, on the observations of ``episodes``; see ``use``.

        It learns the teacher's action from the same noise (or by consistency along the teacher's path). If it exists
        before the online stage, it is trained along.

        Parameters
        ----------
        episodes : Episodes
            Only what was seen counts; with the form ``"lcm"`` also what was done.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`.
        """
        self._check_data(episodes)

        def learn(run: Run) -> None:
            self.student_ = distil_student(self, self._decisions(episodes), run)

        return self._run("student", episodes.fingerprint, learn, progress, checkpoint, checkpoint_every)

    # -- all of it ------------------------------------------------------------------------------------------------

    def rollouts(self, env: Any, episodes: int) -> Episodes:
        """Play ``episodes`` whole episodes with the stochastic policy, as data for the offline stage."""
        self._check_fitted()
        check_counts(episodes=episodes)
        with self._update():
            return self._play(self._vector_env(env, episodes), self.net_, episodes, "rollouts")[0]

    def improve(
        self,
        env: Any,
        demonstrations: Episodes,
        *,
        rollouts: int = 200,
        online_episodes: int = 256,
        on_stage: Callable[[Stage], object] | None = None,
        progress: Progress | None = None,
        checkpoint: Folder = None,
    ) -> Self:
        """Run the stages that ``stages`` names after imitation, with a budget of episodes.

        The offline stage sees the demonstrations and ``rollouts`` episodes of the imitation policy. The student is
        distilled before the online stage and trained along in it; without an online stage it is distilled last.

        Parameters
        ----------
        env : vector environment, or whatever :func:`anytask.control.make` takes
        demonstrations : Episodes
        rollouts, online_episodes : int
            Most episodes to play for the offline and for the online stage.
        on_stage : callable, optional
            Called after every stage, for instance to evaluate the policy as it is then.
        progress, checkpoint
            As in :meth:`fit`.
        """
        self._check_data(demonstrations)
        for name, count in (("rollouts", rollouts), ("online_episodes", online_episodes)):
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count:  # 0: none
                check_counts(**{name: count})
        instance_of("on_stage", Callable)(on_stage)
        data, used, tell, progress = demonstrations, 0, on_stage or (lambda stage: None), heard(progress)
        todo = [name for name in ("offline", "student", "online") if name in self.stages]
        if "online" in todo and not online_episodes:
            todo.remove("online")
        if "online" in todo or ("offline" in todo and rollouts):
            env = self._vector_env(env, max(rollouts, online_episodes))  # who cannot be played in is told at once
        for i, name in enumerate(todo):
            told = portion(progress, i / len(todo), (i + 1) / len(todo))
            if name == "offline":
                if rollouts:
                    new = self._kept(lambda: self.rollouts(env, rollouts), checkpoint)
                    data, used = Episodes.concatenate([data, new]), rollouts
                self.improve_offline(data, progress=told, checkpoint=checkpoint)
            elif name == "student":
                self.distil(data, progress=told, checkpoint=checkpoint)
            else:
                self.improve_online(env, online_episodes, progress=told, checkpoint=checkpoint)
                used += online_episodes
            if not (name == "student" and "online" in todo):  # it is not what it will be yet
                tell(Stage(name, used))
        if todo[-2:] == ["student", "online"]:
            tell(Stage("student", used))
        return self

    def iterate(
        self,
        collect: Any,
        episodes: Episodes,
        rounds: int = 2,
        episodes_per_round: int = 100,
        *,
        on_round: Callable[[int, Episodes], object] | None = None,
        checkpoint: Folder = None,
    ) -> Episodes:
        """Run the outer loop: play, merge what was played into the data, imitate all of it from scratch, improve again.

        Parameters
        ----------
        collect : environment, or callable
            An environment as in :meth:`rollouts`, or ``collect(policy, n) -> Episodes``, for instance from a robot.
        episodes : Episodes
            The data to begin with.
        rounds, episodes_per_round : int, defaults 2 and 100
        on_round : callable, optional
            Called with the round's number and the merged data.
        checkpoint : path, optional
            As in :meth:`fit`; what was played is kept there too, and not played again after a crash.

        Returns
        -------
        Episodes
            The merged data.
        """
        check_counts(rounds=rounds, episodes_per_round=episodes_per_round)
        require_episodes(episodes, "the episodes")
        instance_of("on_round", Callable)(on_round)
        first, n = episodes, episodes_per_round
        asked = callable(collect) and not hasattr(collect, "step")
        if not self._fitted():
            self.fit(episodes, checkpoint=checkpoint).improve_offline(episodes, checkpoint=checkpoint)
        for m in range(rounds):
            new = self._kept(lambda: collect(self, n) if asked else self.rollouts(collect, n), checkpoint)
            episodes = Episodes.concatenate([episodes, new])
            self.fit(episodes, scale=first, checkpoint=checkpoint)
            self.improve_offline(episodes, checkpoint=checkpoint)
            if on_round is not None:
                on_round(m, episodes)
        return episodes

    # -- shared by the stages -------------------------------------------------------------------------------------

    def _transitions(self, episodes: Episodes, every: int = 1) -> Transitions:
        """Return the decisions at every ``every``-th step of each episode, and what came of them."""
        data = self._decisions(episodes)
        t = data.transitions(self.encoder_, data.steps(every), self.gamma, self.bootstrap_timeouts)
        return t._replace(rewards=t.rewards * self.reward_scale)

    def _play(self, env: Any, net: nn.Module, episodes: int, *path: object) -> tuple[Episodes, Tensor, Chain]:
        """Play whole episodes; return them, and the features (n, width) and chains of their decisions."""
        process, generator = self.process, torch.Generator(self._device)
        generator.manual_seed(derive(self.seed, self.stage_, "play", *path))

        @torch.no_grad()
        def decide(window: Window) -> Decided:
            c = self.encoder_(window)
            chain = process.sample(net, c, generator)
            return Decided(c, self._sent(chain.actions[:, self._executed]), chain)

        recorder = Recorder(decide, self._new_memory(), env.num_envs)
        new, places = played(recorder, env, episodes, derive(self.seed, "play", self.stage_, *path) % 2**31, False)
        return new, *recorder.recorded(*places[self._decisions(new).steps(self.n_executed)].T)

    def _rollout(self, env: Any, net: nn.Module, most: int, number: int) -> tuple[Episodes, Rollout]:
        """Play one episode per environment again and again, until there are enough decisions."""
        new: list[Episodes] = []
        parts: list[tuple[Tensor, Chain]] = []
        while most > 0 and sum(len(c) for c, _ in parts) < self.online.decisions:
            some, c, chain = self._play(env, net, min(env.num_envs, most), "online", number, len(new))
            new.append(some)
            parts.append((c, chain))
            most -= len(some)
        episodes, (c, chain) = Episodes.concatenate(new), joined(parts)
        _warn_of_rewards(episodes)
        steps = -(-episodes.lengths // self.n_executed)  # decisions of each episode
        last = torch.zeros(len(c), dtype=torch.bool, device=self._device)
        last[torch.as_tensor(steps.cumsum() - 1)] = True
        return episodes, Rollout(self._transitions(episodes, self.n_executed)._replace(features=c), last, chain)

    # -- stages on disk -------------------------------------------------------------------------------------------

    def _run(
        self, name: str, data: str, learn: Callable[[Run], None], progress: Progress | None, checkpoint: Folder,
        every: int,
    ) -> Self:  # fmt: skip
        """Run a stage, or read back what it came to before; a failure leaves the policy as it was."""
        folder = None if checkpoint is None else as_path(checkpoint, "checkpoint") / f"{self.stage_:02d}"
        training = training_of(self, leave_out=("use",), stage=name, data=data)
        if self.diffusion.noise == "predicted":  # as before there was a choice
            del training["params"]["diffusion"]["group"]["noise"]
        saved = Checkpoint(folder, training, every, self._device)
        with self._update():
            if saved.found is not None and "state" in saved.found:
                self._load_state(saved.found["state"])
                return self
            try:
                learn(Run(saved, portion(progress, 0, 1), (self.seed, self.stage_), self._device))
                modules = [self.encoder_, self.net_, self.world_, self.value_, self.student_]
                for module in filter(None, modules):
                    module.requires_grad_(False)  # what follows trains copies
                    require_finite_weights([module], "at the end")
            except ValueError as error:
                kind = NotFinite if isinstance(error, NotFinite) else ValueError
                raise kind(f"{name} stage: {error}") from error
            self.stage_ += 1
            self.reset()
            saved.save(state=self._state())
        return self

    def _kept(self, play: Callable[[], Episodes], checkpoint: Folder) -> Episodes:
        """Return the episodes that were kept in a checkpoint; where there are none, play them and keep them."""
        if checkpoint is None:
            return play()
        path = as_path(checkpoint, "checkpoint") / f"played-{self.stage_:02d}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_episodes(path, play())
        return load_episodes(path)


def _warn_of_rewards(episodes: Episodes) -> None:
    low, high = episodes.rewards.min(), episodes.rewards.max()
    failed = not np.any(episodes.attributes.get("success", True))
    if high <= 0 and (low == high or failed):  # costs below 0 teach as well, unless nobody ever succeeds
        message = f"no reward above 0 in {len(episodes)} episodes: nothing tells good actions from bad ones"
        warnings.warn(message, stacklevel=2)


def _warn_of_few(count: int, least: int, what: str) -> None:
    if count < least:
        times = f"{count} {what}" + "s" * (count > 1)
        warnings.warn(f"the policy was updated in {times} only: that is hardly any training", stacklevel=2)
