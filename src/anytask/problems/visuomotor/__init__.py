"""Visuomotor control: demonstrations, a way to play, and a stated budget of episodes to make a policy that succeeds."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, free, real, text, whole
from anytask.datasets.episodes import Episodes
from anytask.problems.base import Entrant, Metric, Outcome, Problem, Trained, merged, policy_usage
from anytask.problems.options import Options, mapping
from anytask.problems.training import Progress, fingerprint_of, own_cost, taken

#: Built-in name -> environment.
_WORLDS = {"reach": "anytask/Reach-v0", "walled-reach": "anytask/WalledReach-v0"}


class VisuomotorOptions(Options):
    """Where policies play, and how much."""

    read_only: ClassVar[tuple[str, ...]] = ("env", "demonstrations")

    env: str | None = text(
        None, "Gymnasium id in which policies play, where the data are a folder or file of episodes", optional=True
    )
    demonstrations: Any = free(None, "path of the demonstrations, where the data are a Gymnasium id")
    env_options: Any = mapping("what the environment is made with, as a mapping")
    observation: str = choice("state", ("state", "pixels"), "of the built-in worlds: what is observed")
    demos: int = whole(80, "demonstrations of the built-in worlds")
    slowest: float = real(
        0.25, "smallest speed of their demonstrator; each episode draws one between it and 1", above=0, at_most=1
    )
    noise: float = real(0.3, "standard deviation of the noise on its actions", at_least=0)
    rollouts: int = whole(200, "episodes that may be played for learning from records", at_least=0)
    online_episodes: int = whole(256, "episodes that may be played while learning", at_least=0)
    eval_episodes: int = whole(100, "episodes of each try-out")
    num_envs: int = whole(64, "parallel environments")
    params: Any = mapping("constructor arguments for all entrants, as a mapping; an entrant's own come first")
    preset: str | None = text(
        None, "preset of entrants that have it (none: small for the built-in worlds, else paper)", optional=True
    )


@dataclass(frozen=True)
class VisuomotorData:
    """Where policies play, the demonstrations (None: made anew per seed), and the options."""

    name: str
    env: str
    demos: Episodes | None
    options: VisuomotorOptions
    #: What is measured and ranks: success, or the return where the environment has no notion of success.
    measure: str = "success"

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = None if self.demos is None else self.demos.fingerprint
        return fingerprint_of([self.name, self.env, content], self.options)

    @property
    def env_options(self) -> dict[str, Any]:
        """What the environment is made with."""
        own = {"observation": self.options.observation} if self.demos is None else {}
        return own | dict(self.options.env_options or {})

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        facts: dict[str, Any] = {"source": self.name, "environment": self.env}
        if self.demos is not None:
            d = self.demos
            facts["demonstrations"] = {"episodes": len(d), "steps": d.steps, "observations": list(d.keys)}
        return facts | {"options": self.options.of_a_run(), "fingerprint": self.fingerprint}

    def demonstrations(self, seed: int) -> Episodes:
        """Return the demonstrations of one seed; alike for every entrant."""
        if self.demos is not None:
            return self.demos
        from anytask.control.envs.experts import demonstrations

        o = self.options
        return demonstrations(
            self.env, o.demos, speed=(o.slowest, 1.0), noise=o.noise, gap="random",
            seed=derive(seed, "demonstrations") % 2**31, **self.env_options,
        )  # fmt: skip


class Visuomotor(Problem):
    """From demonstrations to a policy that succeeds, with a stated number of episodes to play.

    Every entrant gets the same demonstrations and may then play: at most ``rollouts`` episodes for learning from
    records, and at most ``online_episodes`` for learning while it plays. After each of its stages the policy is tried
    out in ``eval_episodes`` other episodes, alike for all. Built in are ``reach`` (20 steps to a goal, demonstrations
    at mixed speed that often come too late) and ``walled-reach`` (two gaps in a wall, hard for critics), as numbers or
    pictures, with demonstrations anew for each seed. Your own: a folder or file of episodes and ``env``, any Gymnasium
    id; or the id, and ``demonstrations``.

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
    options_class = VisuomotorOptions

    def load(self, source: Any = "reach", **options: Any) -> VisuomotorData:
        """Take a built-in world, a Gymnasium id with ``demonstrations``, or episodes with ``env``."""
        o = self.check_options(options)
        env, path = o.env, o.demonstrations
        if isinstance(source, str) and source in _WORLDS:
            if env is not None or path is not None:
                raise BadData(f"{source} has its own environment and demonstrations; env is for your own data")
            return VisuomotorData(source, _WORLDS[source], None, o.evolve(preset=o.preset or "small"))
        o = o.evolve(preset=o.preset or "paper")
        if isinstance(source, Episodes):
            name, demos = str(source.attributes.get("name", "episodes")), source
        elif isinstance(source, (str, Path)) and Path(source).exists():
            name, demos = Path(source).stem, _read(source)
        elif path is not None:
            name, env, demos = str(source), str(source), _read(path)
        elif isinstance(source, str) and "-v" in source:
            raise BadData(f"{source}: an environment also needs demonstrations=PATH")
        else:
            raise BadData(f"{source!r} is neither {' nor '.join(_WORLDS)} nor a folder or file of episodes")
        env = env or demos.attributes.get("env_id")
        if not env:
            raise BadData(f"{name}: the episodes do not say where they were played; give env, a Gymnasium id")
        data = VisuomotorData(name, str(env), demos, o)
        if _check(data, demos):
            return data
        self.metrics = tuple(_of_return(metric) for metric in self.metrics)  # type: ignore[misc]
        return replace(data, measure="return")

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

    def refuses(self, entrant: Entrant, data: VisuomotorData) -> str | None:
        """Say why an entrant cannot take part."""
        cls = entrant.load()
        known = hasattr(cls, "fit") and hasattr(cls, "act")
        return None if known else f"{entrant.name} has no fit(episodes) and act(obs)"

    def run(self, entrant: Entrant, data: VisuomotorData, seed: int, progress: Progress | None = None) -> Outcome:
        """Let one entrant imitate and play, trying it out after each of its stages."""
        from anytask.control import evaluate, make

        o, demos = data.options, data.demonstrations(seed)
        if reason := self.refuses(entrant, data):
            raise ValueError(f"{entrant.name} cannot take part: {reason}")
        policy = _made(entrant, o, seed)
        tries: dict[str, float] = {}
        seconds = {"fit": 0.0, "evaluate": 0.0}
        played, trial = 0, derive(seed, "try-out") % 2**31
        n = min(o.num_envs, o.eval_episodes)
        world = make(data.env, n, seed=trial, **data.env_options)

        def try_out(name: str, episodes: int) -> None:
            nonlocal played
            start = time.perf_counter()
            with entrant.applied_to(policy):
                results = evaluate(policy, world, o.eval_episodes, seed=trial)
            tries[name] = results.success_rate if data.measure == "success" else float(results.returns.mean())
            seconds["evaluate"] += time.perf_counter() - start
            played = max(played, episodes)

        start = time.perf_counter()
        _train(policy, data, demos, seed, try_out, progress)
        seconds["fit"] = time.perf_counter() - start - seconds["evaluate"]
        metrics = _metrics(policy, tries, played, data.measure)
        metrics["frequency"] = _frequency(policy, world)
        details: dict[str, Any] = {"stages": tries, "measure": data.measure}
        details["gate"] = [list(check) for check in getattr(policy, "gate_log_", [])]
        details["online"] = getattr(policy, "online_log_", [])
        details["demonstrated"] = float(np.mean(demos.attributes["success"])) if "success" in demos.attributes else None
        if seed == 0 and data.env.startswith("anytask/"):
            details["filmstrip"] = _film(policy, data, trial)
        world.close()
        if progress is not None:
            progress(1.0)
        cost = {"train_seconds": seconds["fit"], "predict_seconds": seconds["evaluate"]}
        cost["stored_samples"] = float(demos.steps)
        return Outcome(metrics, details, cost | own_cost(policy))

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
    progress: Callable[[float], None] | None,
) -> None:  # fmt: skip
    """Let a policy imitate and play; ``on_stage(name, episodes played)`` is called after each of its stages."""
    from anytask.control import make

    o = data.options

    def share(start: float, stop: float) -> Callable[[float], None] | None:
        return None if progress is None else lambda done: progress(start + (stop - start) * done)

    def done(name: str, episodes: int) -> None:
        if hasattr(policy, "use"):
            policy.use = "student" if name == "student" else "teacher"
        on_stage(name, episodes)

    policy.fit(demos, **taken(policy.fit, progress=share(0.0, 0.2)))
    done("imitation", 0)
    if hasattr(policy, "improve"):
        n = min(o.num_envs, max(o.rollouts, o.online_episodes, 1))
        playground = make(data.env, n, seed=derive(seed, "play") % 2**31, **data.env_options)
        policy.improve(
            playground, demos, rollouts=o.rollouts, online_episodes=o.online_episodes,
            on_stage=lambda stage: done(stage.name, stage.episodes), progress=share(0.2, 1.0),
        )  # fmt: skip
        playground.close()


def _read(path: Any) -> Episodes:
    from anytask.datasets.episode_files import load_episodes

    try:
        return load_episodes(path)
    except (ValueError, FileNotFoundError) as error:
        raise BadData(str(error)) from error


def _check(data: VisuomotorData, demos: Episodes) -> bool:
    """Compare the demonstrations with the environment, before anything is trained; return whether it tells success."""
    from anytask.control.adapters import make, tells_success

    world: Any = make(data.env, 1, **data.env_options)
    space, action = world.single_observation_space, world.single_action_space
    told = tells_success(world)
    world.close()
    shapes = {k: s.shape for k, s in space.items()} if hasattr(space, "items") else {"observation": space.shape}
    found = {key: demos.shape_of(key) for key in demos.keys}
    if found != {k: tuple(v) for k, v in shapes.items()}:
        raise BadData(f"{data.name}: the demonstrations have observations {found}, and {data.env} gives {shapes}")
    if action.shape != (demos.action_dim,):
        raise BadData(
            f"{data.name}: the demonstrations have {demos.action_dim} action dimensions, and {data.env} takes {action}"
        )
    return told


def _of_return(metric: Metric) -> Metric:
    """Return the same metric about returns instead of success rates."""
    if "Success" not in metric.label:
        return metric
    label = metric.label.replace("Success rate", "Return").replace("Success", "Return")
    return replace(metric, key=metric.key.replace("success", "return"), label=label, unit="reward")


def _metrics(policy: Any, tries: dict[str, float], played: int, measure: str) -> dict[str, float]:
    out = {f"{measure}_{name}": value for name, value in tries.items()}
    out[measure] = list(tries.values())[-1]
    out["episodes"] = float(played)
    if "offline" in tries:
        out["offline_gain"] = tries["offline"] - tries["imitation"]
    if "student" in tries:
        teacher = next(tries[name] for name in ("online", "offline", "imitation") if name in tries)
        out["student_gap"] = teacher - tries["student"]
    if hasattr(policy, "network_calls"):
        out["network_calls"] = float(policy.network_calls)
        if "student" in tries:
            policy.use = "teacher"
            out["call_share"] = out["network_calls"] / float(policy.network_calls)
            policy.use = "student"
    if log := getattr(policy, "gate_log_", []):
        out["accepted"] = float(np.mean([check.accepted for check in log]))
    return out


def _frequency(policy: Any, world: Any, actions: int = 64) -> float:
    """Return actions per second of one copy."""
    obs, _ = world.reset(seed=0)
    one = {k: v[:1] for k, v in obs.items()} if isinstance(obs, Mapping) else obs[:1]
    policy.reset()
    for _ in range(8):
        policy.act(one)
    start = time.perf_counter()
    for _ in range(actions):
        policy.act(one)
    taken = time.perf_counter() - start
    policy.reset()
    return actions / taken


def _film(policy: Any, data: VisuomotorData, seed: int) -> str:
    from anytask.control import record

    strip = record(policy, data.env, seed=seed, **data.env_options).filmstrip(7, height=110)
    file = io.BytesIO()
    strip.convert("RGB").quantize(64).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
