"""Rearrangement: fetch a box and put it somewhere else, learned by trying; or any other Gymnasium task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished, policy_usage
from anytask.problems.demonstrations import films
from anytask.problems.rearrangement.data import BUILT_IN, RearrangementData, RearrangementOptions
from anytask.problems.training import Builtin, Progress, TrainingProblem


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
    needs = ("train(env, total_steps=...)", "act(obs)")
    options_class = RearrangementOptions
    bounds: ClassVar[Mapping[str, Any]] = {"random policy": "lower"}

    def load(self, source: Any = "pick", **options: Any) -> RearrangementData:
        """Take ``pick``, ``rearrange`` or ``simple-place``, a JSON file or mapping, or the id of an environment."""
        from anytask.control.adapters import find_spec, tells_success
        from anytask.control.envs.rearrangement.scene import Scene, built_in_scene

        o, name = self.check_options(options), str(source)
        found: Any = Builtin(name)
        try:
            if isinstance(source, str) and source in BUILT_IN:
                o = o.evolve(task=source)
                found = replace(built_in_scene("arena" if o.robot == "disc" else "flat"), name=source)
            elif isinstance(source, Mapping) or name.endswith(".json"):
                found = Scene.read(source)
                found = found if isinstance(source, Mapping) else replace(found, name=Path(name).name)
            else:
                try:
                    find_spec(name)
                except ValueError as error:
                    other = f"{source!r} is not built in ({', '.join(BUILT_IN)}) nor a .json file"
                    raise BadData(f"{other}, and {error}") from None
            if o.total_steps is None:
                o = o.evolve(total_steps=BUILT_IN["pick" if isinstance(found, Builtin) else o.task])
            data = RearrangementData(found, o)
            world = data.world(1, 0, {} if data.listed is None else {"episodes": data.listed})
        except OSError as error:
            raise BadData(f"{source}: {error.strerror or error}") from None
        except (ValueError, TypeError) as error:
            raise BadData(f"{getattr(found, 'name', name)}: {error}") from None
        if isinstance(found, Builtin) and not tells_success(world):
            # The environment has no notion of success, so the return ranks.
            self.metrics = tuple(m for m in self.metrics if m.key != "success")  # type: ignore[misc]
        world.close()
        return data

    def baselines(self, data: RearrangementData) -> tuple[Entrant, ...]:
        """Return PPO without memory or categorical actions, the system without shaped rewards, and random actions."""
        ppo = {
            "horizon": 32, "epochs": 2, "minibatches": 4, "lr": 1e-3, "gamma": 0.97, "entropy_coefficient": 0.001,
            "max_grad_norm": 2.0, "bootstrap_timeouts": False,
        }  # fmt: skip
        entrants = [Entrant("flat PPO", "anytask.control.ppo:PPO", ppo, role="baseline")]
        if not isinstance(data.source, Builtin):
            sparse = {"reward": {"progress": 0.0, "pick_bonus": 0.0}}
            entrants.append(Entrant("sparse reward", "anytask.control:Galactic", sparse, role="baseline"))
        entrants.append(Entrant("random policy", "anytask.control.baselines:RandomPolicy", role="baseline"))
        return tuple(entrants)

    def train(self, entrant: Entrant, data: RearrangementData, seed: int, progress: Progress) -> Any:
        """Let one entrant learn in the training worlds of this seed."""
        return _learned(entrant, data.training_world(seed), data.options, seed, progress)

    def test(self, entrant: Entrant, trained: Any, data: RearrangementData, seed: int, progress: Progress) -> Outcome:
        """Test a policy once."""
        from anytask.control import evaluate, record
        from anytask.control.images import as_text

        o, world, listed = data.options, data.test_world(seed), not isinstance(data.source, Builtin)
        start, at = time.perf_counter(), derive(seed, "test worlds") % 2**31
        episodes = "all" if listed else o.episodes
        results = evaluate(trained, world, episodes, seed=at, deterministic=o.deterministic, progress=progress)
        tested = time.perf_counter() - start
        world.close()
        metrics = {
            "success": results.success_rate,
            "return": float(results.returns.mean()),
            "length": float(results.lengths.mean()),
            "env_steps": float(getattr(trained, "steps_", 0)),
        }
        metrics = {name: value for name, value in metrics.items() if not np.isnan(value)}
        metrics |= {f"{kind}_sps": float(rate) for kind, rate in getattr(trained, "throughput_", {}).items()}
        history = getattr(trained, "history_", [])
        details: dict[str, Any] = {"lengths": results.lengths.tolist(), "curve": _curve(history)}
        if seed == 0 and listed:
            once = data.world(1, 0, {**data.episodes(seed, "test"), "order": "once"})
            details["filmstrip"] = as_text(record(trained, once).filmstrip(7, height=140))
        return Outcome(metrics, details, {"predict_seconds": tested})

    def refit(self, entrant: Entrant, data: RearrangementData, seed: int, progress: Progress | None = None) -> Trained:
        """Train one entrant on all episodes."""
        from anytask.control.parts.acting import shapes_of

        world = data.training_world(seed, hold_out=False)
        model = _learned(entrant, world, data.options, seed, progress)
        return Trained((model,), policy_usage(entrant, shapes_of(world.single_observation_space)))

    def figures(self, data: RearrangementData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return success over the training, and film strips."""
        from anytask.control.images import learning_curves

        done, curves = finished(runs), {}
        for name, mine in done.items():
            if own := [run.details["curve"] for run in mine if run.details["curve"]["steps"]]:
                steps = own[0]["steps"]
                curves[name] = (steps, [np.interp(steps, curve["steps"], curve["success"]) for curve in own])
        text = "Share of the training episodes that succeeded, as they were played (with exploration)."
        out = [("Success in training", text, learning_curves(curves, names=list(done)))] if curves else []
        text = "The first test episode of each entrant with seed 0: orange box, green goal, blue robot."
        return out + films(runs, "A test episode", text)


def _learned(entrant: Entrant, world: Any, o: RearrangementOptions, seed: int, progress: Progress | None) -> Any:
    model = entrant.make(o.preset, seed=seed)
    model.train(world, total_steps=o.total_steps, progress=progress)
    world.close()
    return model


def _curve(history: Sequence[Mapping[str, float]], most: int = 100) -> dict[str, list[float]]:
    """Return success by environment steps, averaged over neighbouring rounds down to ``most`` points."""
    known = [(r["steps"], r["success"]) for r in history if not np.isnan(r.get("success", np.nan))]
    if not known:
        return {"steps": [], "success": []}
    parts = np.array_split(np.array(known, float), min(most, len(known)))
    return {"steps": [float(p[-1, 0]) for p in parts], "success": [float(p[:, 1].mean()) for p in parts]}
