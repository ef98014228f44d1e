"""Source selection: which source tasks to label how much, for a target task with few labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.metrics import balanced_accuracy_score, root_mean_squared_error

from anytask.core.progress import heard
from anytask.core.settings import taken
from anytask.datasets.inputs import Inputs
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.source_selection.data import Instance, SourceSelectionData, SourceSelectionOptions, read
from anytask.problems.training import Builtin, Progress, TrainingProblem

_ALL = "all labels"


def _rule(name: str, rule: str, **params: Any) -> Entrant:
    return Entrant(name, "anytask.multitask:L1AMTRL", {"rule": rule, **params}, "baseline")


#: All sources alike, by the least 2-norm, the target's labels alone, and every label that there is.
BASELINES = (
    _rule("uniform", "uniform"),
    _rule("least 2-norm", "l2"),
    Entrant("target alone", "anytask.multitask.baselines:LinearPerTask", {}, "baseline"),
    _rule(_ALL, "uniform", rounds=1),  # which uniform does not use: it tells the runs apart
)


class SourceSelection(TrainingProblem):
    """Buy labels of source tasks under a budget, so that a target task with few labels is learned best.

    ``targets=price task=shop target=Riga`` names the column of the labels, that of the tasks, and the task that is the
    target: ``target_labels`` of its rows are shown, the others tested on, and the rows of all other tasks are pools of
    which labels can be had. Built in are ``random-sources``, linear tasks of one subspace; ``digits-corrupted``, and
    ``mnist-5k-corrupted`` where that was fetched, whose tasks tell one digit from the others under one of eight
    corruptions. What an entrant has of the target is the same for all, and so is the budget; "all labels" has every
    label of the sources, ten budgets of ``random-sources``.

    Metrics
    -------
    * ``error`` on the target (ranks; less is better): for numbers the root of the mean squared error, in standard
      deviations; for classes the share of wrong answers, mean over the classes;
    * ``excess``: mean squared error against labels without noise, where these are known: the excess risk;
    * ``labels``: bought of the sources; ``support``: sources that were chosen.

    Examples
    --------
    >>> problem = SourceSelection()
    >>> data = problem.load("random-sources", n_sources=12, budget=600)
    >>> outcome = problem.run(problem.baselines(data)[0], data, seed=0)
    >>> outcome.metrics["labels"], outcome.metrics["support"]
    (600.0, 12.0)
    """

    key: ClassVar[str] = "source-selection"
    title: ClassVar[str] = "Selection of source tasks"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("error", "Error on the target", higher_is_better=False),
        Metric("excess", "Excess risk on the target", higher_is_better=False),
        Metric("labels", "Labels bought of the sources", False, "labels"),
        Metric("support", "Sources that were chosen", False, "sources"),
    )
    needs: ClassVar[tuple[str, ...]] = ("predict(X)",)
    options_class = SourceSelectionOptions
    bounds: ClassVar[Mapping[str, Literal["lower", "upper"]]] = {"target alone": "lower", _ALL: "upper"}
    privileges: ClassVar[Mapping[str, str]] = {_ALL: "every label of the sources"}

    def load(self, source: Any, **options: Any) -> SourceSelectionData:
        """Take a built-in name, or what :func:`~anytask.datasets.target_tables.load_targets` takes with tasks."""
        return read(source, self.check_options(options))

    def baselines(self, data: SourceSelectionData) -> tuple[Entrant, ...]:
        """Return all sources alike, by the least 2-norm, the target alone, and all labels."""
        return BASELINES

    def refuses(self, entrant: Entrant, data: SourceSelectionData) -> str | None:
        """Refuse systems that select nothing; as baselines they are fitted to the target's labels."""
        if entrant.role == "system" and not hasattr(entrant.load(), "select"):
            return f"{entrant.name} has no select(target, sources, budget)."
        return super().refuses(entrant, data)

    def train(self, entrant: Entrant, data: SourceSelectionData, seed: int, progress: Progress) -> Any:
        """Let an entrant buy labels of the sources; fit it to those of the target where it selects none."""
        return _fitted(entrant, data, seed, progress, data.instance(seed))

    def refit(
        self, entrant: Entrant, data: SourceSelectionData, seed: int, progress: Progress | None = None
    ) -> Trained:
        """Do the same with all rows of the target."""
        world, source = data.instance(seed), data.source
        if isinstance(source, Builtin):
            inputs = Inputs((world.target[0].shape[1],))
        else:
            world, inputs = replace(world, target=data.rows(source.task == data.target)), source.inputs
        model = _fitted(entrant, data, seed, heard(progress), world)
        asked = "" if (name := _target_of(model)) is None else f", {name!r}"
        lines = (
            entrant.import_line,
            "from anytask.datasets.inputs import Inputs",
            f'model, inputs = {entrant.class_name}.load("{{folder}}"), Inputs.load("{{folder}}")',
            f"answers = model.predict(inputs(X){asked})  # X: {inputs.wanted}",
        )
        return Trained((model, inputs), lines, (*getattr(data.source, "notes", ()), *data.notes))

    def test(self, entrant: Entrant, trained: Any, data: SourceSelectionData, seed: int, progress: Progress) -> Outcome:
        """Measure the error on the target's test rows."""
        world, start = data.instance(seed), time.perf_counter()
        X, y = world.test
        task = _target_of(trained)
        answers = np.asarray(trained.predict(X) if task is None else trained.predict(X, task))
        seconds = time.perf_counter() - start
        if data.kind == "classification":
            metrics = {"error": 1 - balanced_accuracy_score(y, answers)}
        else:
            off = root_mean_squared_error(y, answers)
            metrics = {"error": off / np.std(y), **({"excess": off**2} if world.heads else {})}
        bought, details = 0.0, {}
        if task is not None:
            found = trained.selection
            bought = float(found.counts.sum())
            metrics |= {"labels": bought, "support": len(found.support)}
            details = {"labels": {str(name): int(n) for name, n in zip(found.sources.tolist(), found.counts)}}
        progress(1.0)
        cost = {"labels": bought + len(world.target[1]), "predict_seconds": seconds}
        return Outcome({name: float(value) for name, value in metrics.items()}, details, cost)


def _fitted(entrant: Entrant, data: SourceSelectionData, seed: int, progress: Progress, world: Instance) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    if not hasattr(model, "select"):
        return model.fit(*world.target, **taken(model.fit, progress=progress, kinds=data.kind))
    budget = world.every if entrant.name == _ALL else data.options.budget
    heads = {"heads": world.heads} if getattr(model, "told_heads", False) else {}
    model.select(
        world.target, world.sources, budget, **taken(model.select, kinds=data.kind, progress=progress), **heads
    )
    return model


def _target_of(model: Any) -> Any:
    """Return the id by which a model answers for the target; None for one that has no other task."""
    return model.selection.target if hasattr(model, "select") else None
