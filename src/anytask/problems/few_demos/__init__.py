"""Few demonstrations: a handful of episodes by an expert, a large set of other behaviour, and one policy to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.episodes import Episodes
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished, policy_usage
from anytask.problems.demonstrations import DemonstrationProblem, films, fits
from anytask.problems.few_demos.data import WORLDS, FewDemosData, FewDemosOptions, Instance, read
from anytask.problems.training import Learned, Progress

_SUCCESS = Metric("success", "Success rate")
_RETURN = Metric("return", "Return", unit="reward")
_ERROR = Metric("action_error", "Error of the action", higher_is_better=False, unit="standard deviations")


class FewDemos(DemonstrationProblem):
    """Learn a task from a few demonstrations and a large set of other behaviour.

    Every entrant gets the same expert episodes and the same prior episodes, without labels, and the same number of
    gradient steps; its policy is then tried out in the environment. Built in is ``waypoints``
    (:class:`~anytask.control.envs.reach.WaypointReach`, as numbers or pictures): three demonstrations of task A from
    nearly one place, and 40 noisy episodes of each of four tasks from anywhere, two of which share a part of their way;
    policies start anywhere and are pushed about. So is ``fetch-reach``, on MuJoCo's Fetch arm: three demonstrations of
    reaching the goal that is told, and noisy episodes that go there, away from it, or around it. Your own data: a
    folder with ``expert.npz`` (or ``.hdf5``, or a Minari folder ``expert``) and ``prior.*``, or the options ``expert``
    and ``prior``; success needs ``env``, a Gymnasium id. Without it policies are judged by the actions of held-out
    expert episodes.

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
    metrics: ClassVar[tuple[Metric, ...]] = (
        _SUCCESS,
        Metric("retrieved", "Share of the prior data kept"),
        Metric("precision", "Precision of what was kept"),
        _RETURN,
        _ERROR,
        Metric("log_likelihood", "Log-likelihood of the action", unit="nats"),
    )
    bounds = {"oracle selection": "upper"}  # noqa: RUF012 (declared by the base class)
    privileges: ClassVar[Mapping[str, str]] = {"oracle selection": "the truth about which prior data help"}
    needs = ("fit(episodes, prior=...)", "act(obs)")
    options_class = FewDemosOptions

    def load(self, source: Any = "waypoints", **options: Any) -> FewDemosData:
        """Take a built-in world, a folder with ``expert.*`` and ``prior.*``, or two paths as options."""
        o = self.check_options(options)
        own = isinstance(source, str) and source in WORLDS and not Path(source).exists()
        if own and o.expert is None and o.prior is None:
            return FewDemosData(source, WORLDS[source], o)
        expert, prior = read(source, "expert", o.expert), read(source, "prior", o.prior)
        if difference := expert.unlike(prior):
            raise BadData(f"the prior has {difference} of the expert's episodes")
        if o.env is None and len(expert) < 2:
            raise BadData("one expert episode cannot be split: give env, or at least 2 episodes")
        tells_success = o.env is not None and fits(o.env, o.env_options or {}, expert)
        if not tells_success:  # the return ranks, and where nothing can be tried out the error of the action
            first = _ERROR if o.env is None else _RETURN
            self.metrics = (first, *(m for m in self.metrics if m not in (first, _SUCCESS)))  # type: ignore[misc]
        return FewDemosData(str(source), o.env, o, {"expert": expert, "prior": prior}, tells_success)

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
        """Refuse those that need to be told what helps where it is not known."""
        if getattr(entrant.load(), "needs_labels", False) and not data.labelled:
            return f"{entrant.name} needs to be told which prior transitions help"
        return super().refuses(entrant, data)

    def train(self, entrant: Entrant, data: FewDemosData, seed: int, progress: Progress) -> Learned:
        """Fit one entrant to the episodes of this seed."""
        world = data.instance(seed)
        return Learned(_fitted(entrant, world, data.options, seed, progress), world)

    def test(self, entrant: Entrant, trained: Learned, data: FewDemosData, seed: int, progress: Progress) -> Outcome:
        """Try out the policy, or compare it with held-out episodes, and look at what it kept."""
        world, model = trained.world, trained.system
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        if data.env is not None:
            metrics |= _tried_out(model, data, seed, details)
        if world.held_out is not None:
            metrics |= _compared(model, world.held_out, world.prior)
        metrics |= _retrieval(model, world, details)
        return Outcome(metrics, details, {"stored_samples": float(world.prior.steps)})

    def refit(self, entrant: Entrant, data: FewDemosData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit one entrant to all of the expert's episodes."""
        world = data.instance(seed, hold_out=False)
        model = _fitted(entrant, world, data.options, seed, progress)
        return Trained((model,), policy_usage(entrant, {k: world.expert.shape_of(k) for k in world.expert.keys}))

    def figures(self, data: FewDemosData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return film strips, similarity over time, and the map of the embeddings."""
        from anytask.control.behavior_retrieval.figures import embedding_map, similarity_over_time

        done = finished(runs)
        out = films(runs, "Trials", "One trial of each entrant from the same start, with the first seed.")
        first = {name: run for name, mine in done.items() for run in mine[::-1] if "similarity" in run.details}
        for name, run in first.items():
            d = run.details["similarity"]
            text = f"Mean similarity of the prior episodes to the demonstrations, with quartiles (seed {run.seed})."
            out.append((f"Similarity over time: {name}", text, similarity_over_time(d["curves"], d["delta"])))
            text = "Embeddings of transitions in the plane of their two main directions."
            out.append((f"What was kept: {name}", text, embedding_map(run.details["map"])))
        return out


def _fitted(entrant: Entrant, world: Instance, o: FewDemosOptions, seed: int, progress: Progress | None) -> Any:
    steps = {"cloning": o.steps, "embedding": o.embedder_steps}
    given = {name: {"steps": n} for name, n in steps.items() if n is not None}
    model = entrant.make(o.preset, seed=seed, **given)
    prior = world.prior if getattr(model, "needs_labels", False) else replace(world.prior, attributes={})
    model.fit(replace(world.expert, attributes={}), prior, progress=progress)
    return model


def _tried_out(model: Any, data: FewDemosData, seed: int, details: dict[str, Any]) -> dict[str, float]:
    from anytask.control import evaluate, record
    from anytask.control.images import as_text

    trial = derive(seed, "trial") % 2**31
    results = evaluate(model, data.env, data.options.episodes, seed=trial, **data.env_options)
    details["lengths"] = results.lengths.tolist()
    if seed == 0 and str(data.env).startswith("anytask/"):
        film = record(model, data.env, seed=trial, **data.env_options)
        details["filmstrip"] = as_text(film.filmstrip(7, height=110))
    success = {"success": results.success_rate} if data.tells_success else {}
    return {"return": float(results.returns.mean()), **success}


def _compared(model: Any, episodes: Episodes, prior: Episodes) -> dict[str, float]:
    error = (model.predict(episodes) - episodes.actions) / prior.statistics()["action"].scale
    out = {"action_error": float(np.sqrt(np.mean(error**2)))}
    if hasattr(model, "log_prob"):
        out["log_likelihood"] = float(model.log_prob(episodes).mean())
    return out


def _retrieval(model: Any, world: Instance, details: dict[str, Any]) -> dict[str, float]:
    selected = getattr(model, "selected_", None)
    if selected is None:
        return {}
    prior = world.prior
    out = {"retrieved": float(selected.mean())}
    if "relevant" in prior.attributes:
        from anytask.control.baselines import relevant_steps

        out["precision"] = float(relevant_steps(prior)[selected].mean())
    tasks = prior.attributes.get("task")  # of each episode, where it is known
    tasks = tasks if isinstance(tasks, np.ndarray) and tasks.shape == (len(prior),) else None
    if tasks is not None:
        of = tasks.astype(str)[prior.episode_of]
        details["retrieved_by_task"] = {str(task): float((of[selected] == task).mean()) for task in np.unique(of)}
    if hasattr(model, "scores_"):
        from anytask.control.behavior_retrieval.figures import embedding_points, similarity_curves

        delta = float(model.scores_[selected].min())
        details["similarity"] = {"curves": similarity_curves(model.scores_, prior, tasks), "delta": delta}
        details["map"] = embedding_points(model.expert_embeddings_, model.prior_embeddings_, selected, most=600)
    return out
