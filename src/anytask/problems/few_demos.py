"""Few demonstrations: a handful of episodes by an expert, a large set of other behaviour, and one policy to learn."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, free, real, text, whole
from anytask.datasets.episodes import OBSERVATION, Episodes
from anytask.problems.base import Entrant, Metric, Outcome, Trained, policy_usage
from anytask.problems.options import Options, mapping
from anytask.problems.training import Progress, TrainingProblem, fingerprint_of

_ERROR = Metric("action_error", "Error of the action", higher_is_better=False, unit="standard deviations")
_RETURN = Metric("return", "Return", unit="reward")
_METRICS = (
    Metric("success", "Success rate"),
    Metric("retrieved", "Share of the prior data kept"),
    Metric("precision", "Precision of what was kept"),
    _RETURN,
    _ERROR,
    Metric("log_likelihood", "Log-likelihood of the action", unit="nats"),
)
_WORLD = "anytask/WaypointReach-v0"


class FewDemosOptions(Options):
    """Where episodes come from, how long is trained, and where policies are tried out."""

    read_only: ClassVar[tuple[str, ...]] = ("env", "expert", "prior")

    env: str | None = text(
        None, "Gymnasium id in which policies are tried out (none: held-out expert episodes)", optional=True
    )
    env_options: Any = mapping("what the environment is made with, as a mapping")
    expert: Any = free(None, "path of the expert's episodes, where they are not DATA/expert.*")
    prior: Any = free(None, "path of the prior episodes, where they are not DATA/prior.*")
    episodes: int = whole(200, "episodes per trial")
    held_out: float = real(
        0.25, "share of the expert's episodes that is held out where there is no environment", above=0, below=1
    )
    preset: str = choice("small", ("small", "images", "paper"), "settings of every entrant that names no other")
    steps: int | None = whole(None, "gradient steps of every policy (none: the preset's)", optional=True)
    embedder_steps: int | None = whole(
        None, "gradient steps of what embeds transitions (none: the preset's)", optional=True
    )
    observation: str = choice("state", ("state", "pixels"), "waypoints: what is observed")
    demos: int = whole(3, "waypoints: demonstrations")
    prior_episodes: int = whole(40, "waypoints: prior episodes per task")
    expert_start: float = real(0.05, "waypoints: where demonstrations start, half the edge of a square", at_least=0)
    expert_noise: float = real(0.0, "waypoints: noise on the expert's actions", at_least=0)
    prior_start: float = real(0.6, "waypoints: where prior episodes start", at_least=0)
    prior_noise: float = real(0.25, "waypoints: noise on the actions of the prior", at_least=0)
    test_start: float = real(0.6, "waypoints: where trials start", at_least=0)
    test_noise: float = real(0.15, "waypoints: noise on the policy's actions", at_least=0)


class _Instance(NamedTuple):
    """What one seed's run sees."""

    expert: Episodes
    prior: Episodes
    held_out: Episodes | None
    groups: np.ndarray | None  # a label per prior episode, for figures


@dataclass(frozen=True)
class FewDemosData:
    """The episodes (None: made anew per seed), where success is tried out (None: nowhere), and the options."""

    expert: Episodes | None
    prior: Episodes | None
    env: str | None
    options: FewDemosOptions
    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = [None if e is None else e.fingerprint for e in (self.expert, self.prior)]
        return fingerprint_of([self.name, self.env, content], self.options)

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        facts: dict[str, Any] = {"source": self.name, "environment": self.env or "none: held-out episodes"}
        for name, e in (("expert", self.expert), ("prior", self.prior)):
            if e is not None:
                facts[name] = {"episodes": len(e), "steps": e.steps, "observations": list(e.keys)}
        return facts | {"options": self.options.of_a_run(), "fingerprint": self.fingerprint}

    @property
    def labelled(self) -> bool:
        """Whether it is known which prior transitions help."""
        return self.prior is None or "relevant" in self.prior.attributes

    def instance(self, seed: int, hold_out: bool = True) -> _Instance:
        """Return the episodes of one seed; alike for every entrant."""
        o = self.options
        if self.prior is not None and self.expert is not None:
            groups = self.prior.attributes.get("task")
            groups = groups if isinstance(groups, np.ndarray) and groups.shape == (len(self.prior),) else None
            if self.env is not None or not hold_out:
                return _Instance(self.expert, self.prior, None, groups)
            order = np.random.default_rng(derive(seed, "few-demos")).permutation(len(self.expert))
            n = max(1, round(o.held_out * len(order)))
            return _Instance(self.expert.select(order[n:]), self.prior, self.expert.select(order[:n]), groups)
        from anytask.control.envs.experts import demonstrations

        common: dict[str, Any] = {"observation": o.observation}
        expert = demonstrations(
            _WORLD, o.demos, task="A", start_width=o.expert_start, noise=o.expert_noise,
            seed=derive(seed, "expert") % 2**31, **common,
        )  # fmt: skip
        parts, tasks, relevant = [], [], []
        for task in "ABCD":
            # Where the point was is needed to say which transitions help, pictures or not.
            make: dict[str, Any] = {"task": task, "start_width": o.prior_start, "noise": o.prior_noise,
                    "seed": derive(seed, "prior", task) % 2**31}  # fmt: skip
            part = demonstrations(_WORLD, o.prior_episodes, **make, **common)
            places = part if o.observation == "state" else demonstrations(_WORLD, o.prior_episodes, **make)
            parts.append(part)
            tasks += [task] * len(part)
            relevant.append(_helps(task, places))
        prior = Episodes.concatenate(parts)
        facts = {**prior.attributes, "relevant": np.concatenate(relevant), "task": np.array(tasks)}
        prior = dataclasses.replace(prior, attributes=facts)
        return _Instance(expert, prior, None, np.array(tasks))


def _helps(task: str, episodes: Episodes) -> np.ndarray:
    """All of task A helps task A, and task B does up to the way-point that they share; (T,)."""
    from anytask.control.envs.reach import WaypointReach

    if task in "CD":
        return np.zeros(episodes.steps, dtype=bool)
    if task == "A":
        return np.ones(episodes.steps, dtype=bool)
    before = episodes.observations["observation"][:, 0] < WaypointReach.waypoint[0] - WaypointReach.radius / 2
    # Once past it, B's way is its own, even where noise carries it back.
    return np.concatenate([
        np.logical_and.accumulate(before[first : last + 1]) for first, last in zip(episodes.starts, episodes.ends)
    ])  # fmt: skip


class FewDemos(TrainingProblem):
    """Learn a task from a few demonstrations and a large set of other behaviour.

    Every entrant gets the same expert episodes and the same prior episodes, without labels, and the same number of
    gradient steps; its policy is then tried out in the environment. Built in is ``waypoints``
    (:class:`~anytask.control.envs.reach.WaypointReach`, as numbers or pictures): three demonstrations of task A from
    nearly one place, and 40 noisy episodes of each of four tasks from anywhere, two of which share a part of their way;
    policies start anywhere and are pushed about. Your own data: a folder with ``expert.npz`` (or ``.hdf5``, or a Minari
    folder ``expert``) and ``prior.*``, or the options ``expert`` and ``prior``; success needs ``env``, a Gymnasium id.
    Without it policies are judged by the actions of held-out expert episodes.

    Metrics
    -------
    ``success`` (ranks; ``return`` does where the environment knows no success, ``action_error`` where episodes are held
    out), ``retrieved`` (share of the prior data that is kept),
    ``precision`` (share of that which truly helps, where the prior has the attribute ``relevant``), ``return``,
    ``action_error`` (root mean square over held-out steps, in standard deviations of the prior's actions),
    ``log_likelihood``.
    """

    key: ClassVar[str] = "few-demos"
    title: ClassVar[str] = "Few demonstrations"
    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    bounds = {"oracle selection": "upper"}  # noqa: RUF012 (declared by the base class)
    privileges: ClassVar[Mapping[str, str]] = {"oracle selection": "the truth about which prior data help"}
    options_class = FewDemosOptions

    def load(self, source: Any = "waypoints", **options: Any) -> FewDemosData:
        """Take the built-in ``waypoints``, a folder with ``expert.*`` and ``prior.*``, or two paths as options."""
        o = self.check_options(options)
        paths, env = {"expert": o.expert, "prior": o.prior}, o.env
        own = isinstance(source, str) and source == "waypoints" and not Path(source).exists()
        if own and all(path is None for path in paths.values()):
            return FewDemosData(None, None, _WORLD, o, "waypoints")
        expert, prior = (self._read(source, name, path) for name, path in paths.items())
        if difference := expert.unlike(prior):
            raise BadData(f"the prior has {difference} of the expert's episodes")
        if env is None:
            if len(expert) < 2:
                raise BadData("one expert episode cannot be split: give env, or at least 2 episodes")
            # Nothing can be tried out, so the error of the action ranks.
            self.metrics = (_ERROR, *(m for m in _METRICS if m not in (_ERROR, _METRICS[0])))  # type: ignore[misc]
        else:
            self._check_env(env, o.env_options, expert)
        return FewDemosData(expert, prior, env, o, str(source))

    def _read(self, source: Any, name: str, path: Any) -> Episodes:
        from anytask.datasets.episode_files import load_episodes

        if isinstance(path, Episodes):
            return path
        if path is None:
            folder = Path(str(source))
            if not folder.is_dir():
                raise BadData(f"{source!r} is neither 'waypoints' nor a folder with expert.* and prior.*")
            found = sorted(p for p in folder.iterdir() if p.stem == name and (p.is_dir() or p.suffix))
            if len(found) != 1:
                what = "none" if not found else ", ".join(p.name for p in found)
                raise BadData(f"{folder} must hold one {name}.npz, {name}.hdf5 or folder {name}; found: {what}")
            path = found[0]
        try:
            return load_episodes(path)
        except (ValueError, FileNotFoundError) as error:
            raise BadData(str(error)) from error

    def _check_env(self, env: str, options: Any, expert: Episodes) -> None:
        from anytask.control.adapters import make, tells_success

        try:
            world: Any = make(env, 1, **(options or {}))
        except Exception as error:
            raise BadData(f"the environment {env!r} cannot be made: {error}") from error
        obs, _ = world.reset()
        seen = {k: tuple(v.shape[1:]) for k, v in (obs if isinstance(obs, dict) else {OBSERVATION: obs}).items()}
        wanted = {k: expert.shape_of(k) for k in expert.keys}
        if any(seen.get(k) != shape for k, shape in wanted.items()):
            raise BadData(f"{env} shows the observations {seen}, and the expert saw {wanted}")
        dim = int(np.prod(world.single_action_space.shape))
        if dim != expert.action_dim:
            raise BadData(f"{env} takes actions of {dim} numbers, and the expert's have {expert.action_dim}")
        if not tells_success(world):
            # The environment has no notion of success, so the return ranks.
            self.metrics = (_RETURN, *(m for m in _METRICS if m not in (_RETURN, _METRICS[0])))  # type: ignore[misc]
        world.close()

    def baselines(self, data: FewDemosData) -> tuple[Entrant, ...]:
        """Return what retrieval has to beat, and the oracle where it is known what helps."""
        module = "anytask.control.baselines"
        named = {
            "expert only": ("ExpertOnly", {}),
            "everything": ("MixedData", {}),
            "random subset": ("RandomSubset", {}),
            "pre-train, fine-tune": ("PretrainFinetune", {}),
            "goal-conditioned": ("GoalConditioned", {}),
            "goal-conditioned, fine-tuned": ("GoalConditioned", {"finetune_share": 0.25}),
        }
        if data.labelled:
            named["oracle selection"] = ("OracleSelection", {})
        return tuple(Entrant(name, f"{module}:{cls}", params, "baseline") for name, (cls, params) in named.items())

    def refuses(self, entrant: Entrant, data: FewDemosData) -> str | None:
        """Say why an entrant cannot take part."""
        cls = entrant.load()
        fit = getattr(cls, "fit", None)
        if fit is None or "prior" not in inspect.signature(fit).parameters or not hasattr(cls, "act"):
            return f"{entrant.name} has no fit(episodes, prior) and act(obs)"
        if getattr(cls, "needs_labels", False) and not data.labelled:
            return f"{entrant.name} needs to be told which prior transitions help"
        return None

    def system_of(self, trained: tuple[_Instance, Any]) -> Any:
        """Return the policy."""
        return trained[1]

    def train(self, entrant: Entrant, data: FewDemosData, seed: int, progress: Progress) -> tuple[_Instance, Any]:
        """Fit one entrant to the episodes of this seed."""
        world = data.instance(seed)
        return world, _fitted(entrant, world, data.options, seed, progress)

    def test(
        self, entrant: Entrant, trained: tuple[_Instance, Any], data: FewDemosData, seed: int, progress: Progress
    ) -> Outcome:
        """Try out the policy, or compare it with held-out episodes, and look at what it kept."""
        world, model = trained
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        if data.env is not None:
            metrics |= self._try_out(model, data, seed, details)
        if world.held_out is not None:
            metrics |= _held_out(model, world.held_out, world.prior)
        metrics |= _retrieval(model, world, details)
        return Outcome(metrics, details, {"stored_samples": float(world.prior.steps)})

    def refit(self, entrant: Entrant, data: FewDemosData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit one entrant to all of the expert's episodes."""
        world = data.instance(seed, hold_out=False)
        model = _fitted(entrant, world, data.options, seed, progress)
        return Trained((model,), policy_usage(entrant, {k: world.expert.shape_of(k) for k in world.expert.keys}))

    def _try_out(self, model: Any, data: FewDemosData, seed: int, details: dict[str, Any]) -> dict[str, float]:
        from anytask.control import evaluate

        o = data.options
        options = dict(o.env_options or {})
        if data.prior is None:
            options = {"task": "A", "start_width": o.test_start, "action_noise": o.test_noise,
                       "observation": o.observation}  # fmt: skip
        trial = derive(seed, "trial") % 2**31
        results = evaluate(model, data.env, o.episodes, seed=trial, **options)
        details["lengths"] = results.lengths.tolist()
        if seed == 0 and data.env is not None and data.env.startswith("anytask/"):
            details["filmstrip"] = _filmstrip(model, data.env, trial, options)
        success = results.success_rate
        out = {"return": float(results.returns.mean())}
        return out | {"success": success} if np.isfinite(success) else out

    def figures(self, data: FewDemosData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return film strips, similarity over time, and the map of the embeddings."""
        from anytask.control.behavior_retrieval.figures import embedding_map, similarity_over_time, strips

        done = [run for run in runs if run.status == "done"]
        out: list[tuple[str, str, Any]] = []
        films = {run.entrant_name: run.details["filmstrip"] for run in done if "filmstrip" in run.details}
        if films:
            text = "One trial of each entrant from the same start, with the first seed."
            out.append(("Trials", text, strips(films)))
        seen: set[str] = set()
        for run in done:
            if "similarity" in run.details and run.entrant_name not in seen:
                seen.add(run.entrant_name)
                d = run.details["similarity"]
                text = f"Mean similarity of the prior episodes to the demonstrations, with quartiles (seed {run.seed})."
                name = run.entrant_name
                out.append((f"Similarity over time: {name}", text, similarity_over_time(d["curves"], d["delta"])))
                if "map" in run.details:
                    text = "Embeddings of transitions in the plane of their two main directions."
                    out.append((f"What was kept: {name}", text, embedding_map(run.details["map"])))
        return out


def _filmstrip(model: Any, env_id: str, seed: int, options: Mapping[str, Any]) -> str:
    """Return seven moments of one trial as a PNG file in base64."""
    from anytask.control import filmstrip, make

    env: Any = make(env_id, 1, seed=seed, autoreset=False, **options)
    obs, _ = env.reset(seed=seed)
    model.reset()
    states, done = [env.state()], False
    while not done:
        obs, _, terminated, truncated, _ = env.step(model.act(obs))
        states.append(env.state())
        done = bool(terminated[0] | truncated[0])
    # Only the moments that are shown are drawn.
    shown = np.unique(np.linspace(0, len(states) - 1, 7).round().astype(int))
    frames = []
    for i in shown:
        env.restore(states[i])
        frames.append(env.image())
    strip = filmstrip(frames, len(frames), height=110, labels=[f"step {i}" for i in shown])
    file = io.BytesIO()
    strip.convert("RGB").quantize(64).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _fitted(entrant: Entrant, world: _Instance, o: FewDemosOptions, seed: int, progress: Progress | None) -> Any:
    steps = {"cloning": o.steps, "embedding": o.embedder_steps}
    given = {name: {"steps": n} for name, n in steps.items() if n is not None}
    model = entrant.make(o.preset, seed=seed, **given)
    prior = world.prior if getattr(entrant.load(), "needs_labels", False) else unlabelled(world.prior)
    model.fit(unlabelled(world.expert), prior, progress=progress)
    return model


def unlabelled(episodes: Episodes) -> Episodes:
    """Return the episodes without any facts on them."""
    return Episodes(
        episodes.observations, episodes.actions, episodes.rewards, episodes.terminated, episodes.truncated,
        episodes.final_observations, episodes.lengths,
    )  # fmt: skip


def _held_out(model: Any, episodes: Episodes, prior: Episodes) -> dict[str, float]:
    scale = np.maximum(prior.statistics()["action"].std, 1e-6)
    error = (model.predict(episodes) - episodes.actions) / scale
    out = {"action_error": float(np.sqrt(np.mean(error**2)))}
    if hasattr(model, "log_prob"):
        out["log_likelihood"] = float(model.log_prob(episodes).mean())
    return out


def _retrieval(model: Any, world: _Instance, details: dict[str, Any]) -> dict[str, float]:
    selected = getattr(model, "selected_", None)
    if selected is None:
        return {}
    prior = world.prior
    out = {"retrieved": float(selected.mean())}
    if "relevant" in prior.attributes:
        from anytask.control.baselines import relevant_steps

        out["precision"] = float(relevant_steps(prior)[selected].mean())
    if world.groups is not None:
        of = np.asarray(world.groups).astype(str)[prior.episode_of]
        details["retrieved_by_task"] = {g: float((of[selected] == g).mean()) for g in sorted(set(of.tolist()))}
    if hasattr(model, "scores_"):
        from anytask.control.behavior_retrieval.figures import embedding_points, similarity_curves

        delta = float(model.scores_[selected].min())
        details["similarity"] = {"curves": similarity_curves(model.scores_, prior, world.groups), "delta": delta}
        details["map"] = embedding_points(model.expert_embeddings_, model.prior_embeddings_, selected, most=600)
    return out
