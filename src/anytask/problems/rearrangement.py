"""Rearrangement: fetch a box and put it somewhere else, learned by trying; or any other Gymnasium task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, text, whole
from anytask.problems.base import Entrant, Metric, Outcome, Trained, policy_usage
from anytask.problems.options import Options, mapping
from anytask.problems.training import Progress, TrainingProblem, fingerprint_of

if TYPE_CHECKING:
    from anytask.control.envs.rearrangement.scene import Scene

#: Built-in name -> environment steps of a training.
_BUILT_IN = {"pick": 300_000, "rearrange": 3_000_000, "simple-place": 3_000_000}
_LEAST_LISTED = 8  # episodes of a user's list from which on a quarter is held out


class RearrangementOptions(Options):
    """How long entrants learn, and how they are tested."""

    total_steps: int | None = whole(
        None, "environment steps of a training (none: 300,000 for pick, 3,000,000 for others)", optional=True
    )
    num_envs: int = whole(512, "parallel environments to learn in")
    episodes: int = whole(300, "test episodes")
    task: str = choice("rearrange", tuple(_BUILT_IN), "what is to be done in a scene of your own")
    robot: str = choice("disc", ("disc", "fetch"), "who does it")
    preset: str = text("small", "preset of entrants that have it and name no other")
    deterministic: bool = flag(
        True, "test policies by their best action; False by a sampled one, as Galactic's authors do"
    )
    env_options: Any = mapping("more options of the environment, as a mapping")


@dataclass(frozen=True)
class RearrangementData:
    """What is learned and tested: a scene and a task, or the id of a Gymnasium environment."""

    name: str
    scene: Scene | None
    env_id: str | None
    options: RearrangementOptions

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = self.env_id if self.scene is None else self.scene.fingerprint
        return fingerprint_of(content, self.options)

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        facts: dict[str, Any] = {
            "source": self.name,
            "options": self.options.of_a_run(),
            "fingerprint": self.fingerprint,
        }
        if self.scene is not None:
            listed = self.scene.episodes
            facts |= {"stages": len(self.scene.stages), "objects": [thing.name for thing in self.scene.objects]}
            facts["episodes"] = "sampled, other ones in training and test"
            if listed is not None:
                held_out = len(listed) // 4 if len(listed) >= _LEAST_LISTED else 0
                facts["episodes"] = f"{len(listed)} listed, {held_out or 'none'} held out for the test"
        return facts

    def training_world(self, seed: int, hold_out: bool = True) -> Any:
        """Return the environment that an entrant learns in; alike for every entrant."""
        from anytask.control import make

        o = self.options
        at = derive(seed, "training worlds") % 2**31
        if self.scene is None:
            return make(self.env_id, o.num_envs, seed=at, **(o.env_options or {}))
        return self._world(o.num_envs, at, self._listed(seed, "train" if hold_out else "all"), "random")

    def test_world(self, seed: int) -> Any:
        """Return the environment of the test, with episodes that nobody trained on."""
        from anytask.control import make

        o = self.options
        if self.scene is None:
            n = min(o.episodes, 64)
            return make(self.env_id, n, seed=derive(seed, "test worlds") % 2**31, **(o.env_options or {}))
        episodes = self._listed(seed, "test")
        most = episodes["episodes"] if isinstance(episodes["episodes"], int) else len(episodes["episodes"])
        return self._world(min(most, 512), 0, episodes, "once")

    def _listed(self, seed: int, part: str) -> Any:
        listed = None if self.scene is None else self.scene.episodes
        if listed is None:
            count = self.options.episodes if part == "test" else 4000
            return {"episodes": count, "episode_seed": derive(seed, "test" if part == "test" else "train")}
        if len(listed) < _LEAST_LISTED or part == "all":
            return {"episodes": listed}
        order = np.random.default_rng(derive(0, "held out")).permutation(len(listed))
        held_out = len(listed) // 4
        return {"episodes": listed[np.sort(order[:held_out] if part == "test" else order[held_out:])]}

    def _world(self, n: int, seed: int, episodes: Mapping[str, Any], order: str) -> Any:
        from anytask.control.envs.rearrangement import Rearrangement

        o = self.options
        given = {"robot": o.robot, "task": o.task, **(o.env_options or {})}
        return Rearrangement(n, scene=self.scene, seed=seed, order=order, **given, **episodes)


class Rearrangement(TrainingProblem):
    """Learn by trying to fetch a movable box and to put it down at a goal.

    Every entrant learns for the same number of environment steps in the same worlds, and then plays test episodes with
    start poses, objects and goals that nobody trained on. Built in are ``pick`` (grasp the box), ``rearrange`` (and put
    it down within 0.15 m of the goal) and ``simple-place`` in a walled arena with a disc robot. Your own: a JSON file
    with a scene and, by choice, a list of episodes (of eight or more a quarter is held out for the test), or the id of
    any Gymnasium environment, whose own measure of success counts.

    Entrants have ``train(env, total_steps, progress=...)`` and are policies, ``act(obs)``. An entrant that has
    the ``preset`` is made with it.

    Metrics
    -------
    ``success`` (share of the test episodes; ranks), ``return``, ``length`` (steps per test episode), ``simulation_sps``
    and ``training_sps`` (environment steps per second of playing, policy included, and of all of the training),
    ``env_steps``.
    """

    key: ClassVar[str] = "rearrangement"
    title: ClassVar[str] = "Rearrangement"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("success", "Success rate"),
        Metric("return", "Return", unit="reward"),
        Metric("length", "Episode length", higher_is_better=False, unit="steps"),
        Metric("simulation_sps", "Playing speed", unit="steps/s"),
        Metric("training_sps", "Training speed", unit="steps/s"),
        Metric("env_steps", "Environment steps", higher_is_better=False, unit="steps"),
    )
    options_class = RearrangementOptions
    bounds: ClassVar[Mapping[str, Any]] = {"random policy": "lower"}

    def load(self, source: Any = "pick", **options: Any) -> RearrangementData:
        """Take ``pick``, ``rearrange`` or ``simple-place``, a JSON file or mapping, or the id of an environment."""
        from anytask.control.envs.rearrangement.scene import Scene, built_in_scene

        o = self.check_options(options)
        scene: Scene | None = None
        env_id, name = None, str(source)
        if isinstance(source, str) and source in _BUILT_IN:
            o = o.evolve(task=source)
            scene = built_in_scene("arena" if o.robot == "disc" else "flat")
        elif isinstance(source, Mapping) or str(source).endswith(".json"):
            try:
                scene = Scene.read(source)
            except OSError as error:
                raise BadData(f"{source}: {error.strerror or error}") from None
            except ValueError as error:
                raise BadData(str(error)) from None
            name = scene.name if isinstance(source, Mapping) else Path(str(source)).name
        else:
            from anytask.control.adapters import find_spec, make, tells_success

            try:
                find_spec(str(source))
            except ValueError as error:
                raise BadData(
                    f"{source!r} is not built in ({', '.join(_BUILT_IN)}) nor a .json file, and {error}"
                ) from None
            env_id = str(source)
            world: Any = make(env_id, 1, **(o.env_options or {}))
            if not tells_success(world):
                # The environment has no notion of success, so the return ranks.
                self.metrics = tuple(m for m in self.metrics if m.key != "success")  # type: ignore[misc]
            world.close()
        if o.total_steps is None:
            o = o.evolve(total_steps=_BUILT_IN.get(o.task if scene is not None else "pick"))
        data = RearrangementData(name, scene, env_id, o)
        if scene is not None and scene.episodes is not None:
            try:
                data._world(1, 0, {"episodes": scene.episodes}, "random")
            except ValueError as error:
                raise BadData(f"{name}: {error}") from None
        return data

    def baselines(self, data: RearrangementData) -> tuple[Entrant, ...]:
        """Return PPO without memory or categorical actions, the system without shaped rewards, and random actions."""
        ppo = {
            "horizon": 32, "epochs": 2, "minibatches": 4, "lr": 1e-3, "gamma": 0.97, "entropy_coefficient": 0.001,
            "max_grad_norm": 2.0, "bootstrap_timeouts": False,
        }  # fmt: skip
        entrants = [Entrant("flat PPO", "anytask.control.ppo:PPO", ppo, role="baseline")]
        if data.scene is not None:
            sparse = {"reward": {"progress": 0.0, "pick_bonus": 0.0}}
            entrants.append(Entrant("sparse reward", "anytask.control:Galactic", sparse, role="baseline"))
        entrants.append(Entrant("random policy", "anytask.problems.rearrangement:RandomPolicy", role="baseline"))
        return tuple(entrants)

    def refuses(self, entrant: Entrant, data: RearrangementData) -> str | None:
        """Say why an entrant cannot take part."""
        cls = entrant.load()
        missing = [name for name in ("train", "act") if not hasattr(cls, name)]
        return f"{entrant.name} has no {' and no '.join(missing)}" if missing else None

    def train(self, entrant: Entrant, data: RearrangementData, seed: int, progress: Progress) -> Any:
        """Let one entrant learn in the training worlds of this seed."""
        world = data.training_world(seed)
        model = _trained(entrant, world, data.options, seed, progress)
        world.close()
        return model

    def test(self, entrant: Entrant, trained: Any, data: RearrangementData, seed: int, progress: Progress) -> Outcome:
        """Test a policy once."""
        from anytask.control import evaluate
        from anytask.control.envs.rearrangement import play_all

        o, world = data.options, data.test_world(seed)
        start = time.perf_counter()
        if data.scene is not None:
            results = play_all(trained, world, deterministic=o.deterministic)
        else:
            at = derive(seed, "test worlds") % 2**31
            results = evaluate(trained, world, o.episodes, seed=at, deterministic=o.deterministic)
        tested = time.perf_counter() - start
        world.close()
        metrics = {
            "success": results.success_rate,
            "return": float(results.returns.mean()),
            "length": float(results.lengths.mean()),
            "env_steps": float(getattr(trained, "steps_", 0)),
        }
        metrics = {name: value for name, value in metrics.items() if not np.isnan(value)}
        speeds = getattr(trained, "throughput_", {})
        metrics |= {f"{k}_sps": float(speeds[k]) for k in ("simulation", "training") if k in speeds}
        curve = _curve(getattr(trained, "history_", []))
        details: dict[str, Any] = {"lengths": results.lengths.tolist(), "curve": curve}
        if seed == 0 and data.scene is not None:
            details["filmstrip"] = _film(trained, data, seed)
        return Outcome(metrics, details, {"predict_seconds": tested})

    def refit(self, entrant: Entrant, data: RearrangementData, seed: int, progress: Progress | None = None) -> Trained:
        """Train one entrant on all episodes."""
        world = data.training_world(seed, hold_out=False)
        model = _trained(entrant, world, data.options, seed, progress)
        space = world.single_observation_space
        world.close()
        shapes = {k: s.shape for k, s in space.items()} if hasattr(space, "items") else {"observation": space.shape}
        return Trained((model,), policy_usage(entrant, shapes))

    def figures(self, data: RearrangementData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return success over the training, and film strips."""
        from anytask.control.images import learning_curves, strips

        done = [run for run in runs if run.status == "done"]
        out: list[tuple[str, str, Any]] = []
        names = list(dict.fromkeys(run.entrant_name for run in done))
        curves = {}
        for name in names:
            mine = [run.details["curve"] for run in done if run.entrant_name == name and run.details.get("curve")]
            mine = [c for c in mine if c["steps"]]
            if mine:
                steps = np.asarray(mine[0]["steps"], float)
                own = [_interpolated(steps, c) for c in mine]
                curves[name] = (steps, np.stack(own))
        if curves:
            text = "Share of the training episodes that succeeded, as they were played (with exploration)."
            out.append(("Success in training", text, learning_curves(curves, names=names)))
        films = {run.entrant_name: run.details["filmstrip"] for run in done if "filmstrip" in run.details}
        if films:
            text = "The first test episode of each entrant with seed 0: orange box, green goal, blue robot."
            out.append(("A test episode", text, strips(films)))
        return out


def _trained(entrant: Entrant, world: Any, o: RearrangementOptions, seed: int, progress: Progress | None) -> Any:
    model = entrant.make(o.preset, seed=seed)
    model.train(world, total_steps=o.total_steps, progress=progress)
    return model


class RandomPolicy:
    """Actions drawn evenly from the action space.

    Parameters
    ----------
    seed : int, default 0
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def train(self, env: Any, total_steps: int, progress: Callable[[float], None] | None = None) -> RandomPolicy:
        """Look at the action space, and learn nothing."""
        import copy

        self.space = copy.deepcopy(env.single_action_space)
        self.space.seed(derive(self.seed, "random policy") % 2**31)
        return self

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return random actions (n, ...), whatever is asked for."""
        import torch

        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return torch.as_tensor(np.stack([self.space.sample() for _ in range(len(first))]), device=first.device)


def _curve(history: list[Mapping[str, float]], most: int = 100) -> dict[str, list[float]]:
    """Return success by environment steps, averaged over neighbouring rounds down to ``most`` points."""
    known = [(r["steps"], r["success"]) for r in history if not np.isnan(r.get("success", np.nan))]
    if not known:
        return {"steps": [], "success": []}
    parts = np.array_split(np.array(known, float), min(most, len(known)))
    return {"steps": [float(p[-1, 0]) for p in parts], "success": [float(p[:, 1].mean()) for p in parts]}


def _interpolated(steps: np.ndarray, curve: Mapping[str, list[float]]) -> np.ndarray:
    return np.interp(steps, curve["steps"], curve["success"])


def _film(model: Any, data: RearrangementData, seed: int) -> str:
    from anytask.control import record
    from anytask.control.images import as_text

    world = data._world(1, 0, data._listed(seed, "test"), "once")
    return as_text(record(model, world).filmstrip(7, height=140))
