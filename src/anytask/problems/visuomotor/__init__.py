"""Visuomotor control: demonstrations, a way to play, and a stated budget of episodes to make a policy that succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from anytask.core.errors import BadData
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.settings import merged, taken
from anytask.datasets.episodes import Episodes
from anytask.problems.base import Entrant, Metric, Outcome, Trained, policy_usage
from anytask.problems.demonstrations import DemonstrationProblem, about_returns, fits, read_episodes
from anytask.problems.visuomotor.data import WORLDS, VisuomotorData, VisuomotorOptions
from anytask.problems.visuomotor.trial import Trial


class Visuomotor(DemonstrationProblem):
    """From demonstrations to a policy that succeeds, with a stated number of episodes to play.

    Every entrant gets the same demonstrations and may then play: at most ``rollouts`` episodes for learning from
    records, and at most ``online_episodes`` for learning while it plays; whoever has no offline stage plays both while
    learning. After each of its stages the policy is tried out in ``eval_episodes`` other episodes, alike for all.
    Built in are ``reach`` (20 steps to a goal, demonstrations at mixed speed that often come too late) and
    ``walled-reach`` (two gaps in a wall, hard for critics), as numbers or pictures, and ``fetch-reach`` (the same on
    MuJoCo's Fetch arm, 10 steps to a goal that is told), with demonstrations anew for each seed. Your own: a folder or
    file of episodes and ``env``, any Gymnasium id; or the id, and ``demonstrations``.

    An entrant has ``fit(episodes)`` and ``act(obs)``; if it also has ``improve(env, demonstrations, rollouts=...,
    online_episodes=..., on_stage=...)``, it may play, and calls ``on_stage(stage)`` with ``stage.name`` and
    ``stage.episodes`` after each of its stages.

    Metrics
    -------
    ``success`` of what is delivered (ranks), ``success_imitation``, ``success_offline``, ``success_online``,
    ``success_student`` after these stages, ``offline_gain`` (offline over imitation), ``student_gap`` (what the student
    loses against its teacher), ``network_calls`` per action, ``call_share`` (the student's calls over the teacher's),
    ``frequency`` (actions per second of one copy), ``episodes`` played, ``accepted`` (share of gate checks). Where an
    environment has no notion of success, all of these are about the return.
    """

    key: ClassVar[str] = "visuomotor"
    title: ClassVar[str] = "Visuomotor control"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("success", "Success rate"),
        Metric("success_imitation", "Success after imitation"),
        Metric("success_offline", "Success after the offline stage"),
        Metric("success_online", "Success after the online stage"),
        Metric("success_student", "Success of the one-step student"),
        Metric("offline_gain", "Success gained offline"),
        Metric("student_gap", "Success lost by the student", higher_is_better=False),
        Metric("network_calls", "Network calls per action", higher_is_better=False, unit="calls"),
        Metric("call_share", "Student's calls over the teacher's", higher_is_better=False),
        Metric("frequency", "Control frequency", unit="actions per second"),
        Metric("episodes", "Episodes played", higher_is_better=False, unit="episodes"),
        Metric("accepted", "Share of gate checks accepted"),
    )
    needs = ("fit(episodes)", "act(obs)")
    options_class = VisuomotorOptions

    def load(self, source: Any = "reach", **options: Any) -> VisuomotorData:
        """Take a built-in world, a Gymnasium id with ``demonstrations``, or episodes with ``env``."""
        o = self.check_options(options)
        env, path = o.env, o.demonstrations
        if isinstance(source, str) and source in WORLDS:
            if env is not None or path is not None:
                raise BadData(f"{source} has its own environment and demonstrations; env is for your own data")
            return VisuomotorData(source, WORLDS[source], o.evolve(preset=o.preset or "small"))
        o = o.evolve(preset=o.preset or "paper")
        if isinstance(source, Episodes):
            name, demos = str(source.attributes.get("name", "episodes")), source
        elif isinstance(source, (str, Path)) and Path(source).exists():
            name, demos = Path(source).stem, read_episodes(source)
        elif path is not None:
            name, env, demos = str(source), str(source), read_episodes(path)
        elif isinstance(source, str) and "-v" in source:
            raise BadData(f"{source}: an environment also needs demonstrations=PATH")
        else:
            raise BadData(f"{source!r} is neither {' nor '.join(WORLDS)} nor a folder or file of episodes")
        env = env or demos.attributes.get("env_id")
        if not env:
            raise BadData(f"{name}: the episodes do not say where they were played; give env, a Gymnasium id")
        tells_success = fits(str(env), o.env_options or {}, demos)
        if not tells_success:
            self.metrics = tuple(about_returns(metric) for metric in self.metrics)  # type: ignore[misc]
        return VisuomotorData(name, str(env), o, {"demonstrations": demos}, tells_success)

    def baselines(self, data: VisuomotorData) -> tuple[Entrant, ...]:
        """Return imitation alone, no gate, no offline stage, and a Gaussian policy with PPO."""
        rl100, gaussian = "anytask.control:RL100", "anytask.control.rl100.baselines:GaussianBC"
        named: dict[str, tuple[str, dict[str, Any]]] = {
            "diffusion policy": (rl100, {"stages": ["imitation"]}),
            "RL-100 without gate": (rl100, {"offline": {"gate": False}}),
            "RL-100 without offline stage": (rl100, {"stages": ["imitation", "online", "student"]}),
            "Gaussian cloning + PPO": (gaussian, {}),
        }
        return tuple(Entrant(name, entry, params, "baseline") for name, (entry, params) in named.items())

    def run_variants(
        self, entrants: Sequence[Entrant], data: VisuomotorData, seed: int, progress: Progress | None = None
    ) -> list[Outcome]:
        """Let a policy imitate and play, trying it out after each stage with what each of the entrants sets."""
        from anytask.control import make

        self.check_entrants(entrants, data)
        o, demos, at = data.options, data.demonstrations(seed), derive(seed, "try-out") % 2**31
        policy = _made(entrants[0], o, seed)
        world = make(data.env, min(o.num_envs, o.eval_episodes), seed=at, **data.env_options)
        trials = [Trial(entrant, policy, world, data, at) for entrant in entrants]

        def try_out(stage: str, played: int) -> None:
            for trial in trials:
                trial.after(stage, played)

        start = time.perf_counter()
        _train(policy, data, demos, seed, try_out, progress)
        train_seconds = time.perf_counter() - start - sum(trial.seconds for trial in trials)
        outcomes = [trial.outcome(film=seed == 0 and data.env.startswith("anytask/")) for trial in trials]
        world.close()
        for outcome in outcomes:
            outcome.cost = {"train_seconds": train_seconds, "stored_samples": float(demos.steps)} | outcome.cost
        if progress is not None:
            progress(1.0)
        return outcomes

    def refit(self, entrant: Entrant, data: VisuomotorData, seed: int, progress: Progress | None = None) -> Trained:
        """Let one entrant imitate and play, without trying it out; demonstrations were never held out."""
        demos = data.demonstrations(seed)
        policy = _made(entrant, data.options, seed)
        _train(policy, data, demos, seed, lambda name, episodes: None, progress)
        return Trained((policy,), policy_usage(entrant, {k: demos.shape_of(k) for k in demos.keys}))

    def figures(self, data: VisuomotorData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return success by stage, the gate's log, and film strips."""
        from anytask.problems.visuomotor.figures import visuomotor_figures

        return visuomotor_figures(runs)


def _made(entrant: Entrant, o: VisuomotorOptions, seed: int) -> Any:
    settled = replace(entrant, params=merged(o.params or {}, entrant.params))
    return settled.make(o.preset, seed=seed)


def _train(
    policy: Any, data: VisuomotorData, demos: Episodes, seed: int, on_stage: Callable[[str, int], None],
    progress: Progress | None,
) -> None:  # fmt: skip
    """Let a policy imitate and play; ``on_stage(name, episodes played)`` is called after each of its stages."""
    from anytask.control import make

    o = data.options

    def done(name: str, episodes: int) -> None:
        if hasattr(policy, "use"):
            policy.use = "student" if name == "student" else "teacher"
        on_stage(name, episodes)

    policy.fit(demos, **taken(policy.fit, progress=portion(progress, 0.0, 0.2)))
    done("imitation", 0)
    if hasattr(policy, "improve"):
        n = min(o.num_envs, max(o.rollouts, o.online_episodes, 1))
        playground = make(data.env, n, seed=derive(seed, "play") % 2**31, **data.env_options)
        # Who learns from no records has the same budget: it plays these episodes while learning.
        unused = 0 if "offline" in getattr(policy, "stages", ("offline",)) else o.rollouts
        policy.improve(
            playground, demos, rollouts=o.rollouts, online_episodes=o.online_episodes and o.online_episodes + unused,
            on_stage=lambda stage: done(stage.name, stage.episodes), progress=portion(progress, 0.2, 1.0),
        )  # fmt: skip
        playground.close()
