"""Multi-task training: one table with several targets, or with rows of several tasks."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, root_mean_squared_error

from anytask.core.progress import heard
from anytask.core.settings import taken
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished
from anytask.problems.multi_task_training.data import Instance, MultiTaskData, MultiTaskOptions, read
from anytask.problems.training import Progress, TrainingProblem

_OWN, _LIGHT = "anytask.multitask.baselines", "anytask.multitask.baselines:LightGBMTasks"


def _boosted(name: str, shared: int, task: int) -> Entrant:
    rounds = {"shared_rounds": shared, "partition_rounds": 0, "task_rounds": task}
    return Entrant(name, "anytask.multitask:RMTGB", rounds, "baseline")


#: Boosted stumps for each task, for all, and for all and then each; LightGBM; and linear models.
BASELINES = (
    Entrant("one model per task", f"{_OWN}:BoostingPerTask", {}, "baseline"),
    _boosted("pooled", 200, 0),
    _boosted("two blocks", 160, 40),
    Entrant("LightGBM per task", _LIGHT, {"how": "each"}, "baseline"),
    Entrant("LightGBM, task as a feature", _LIGHT, {"how": "feature"}, "baseline"),
    Entrant("linear", f"{_OWN}:LinearPerTask", {}, "baseline"),
)
_ALONE = BASELINES[0]
_BALANCED = {"": "sum", ", learned weights": "uncertainty", ", UPGrad": "upgrad", ", CAGrad": "cagrad"}
#: One network for each task; and one for all, with equal weights, learned weights, and two balancers of torchjd.
NETWORKS = (
    Entrant("one network per task", f"{_OWN}:NetworkPerTask", {}, "baseline"),
    *(
        Entrant(f"shared trunk{name}", "anytask.multitask:SharedTrunk", {"balancer": balancer}, "baseline")
        for name, balancer in _BALANCED.items()
    ),
)


class MultiTaskTraining(TrainingProblem):
    """Learn several targets of one table, or rows of several tasks, and be tested on each task.

    ``targets=price,churn`` names several target columns, of numbers or classes, with gaps; ``task=shop`` the column
    that says which task a row is from, of one target. Built in are ``random-tasks``, some of which do not belong to the
    others, ``diabetes-age`` (by age band), ``linnerud``, and, with the extra ``multitask``, ``grunfeld`` (by firm).

    Metrics
    -------
    * ``error``: mean over the tasks (ranks; less is better): for numbers the root of the mean squared error, in
      standard deviations of the target's column; for classes the share of wrong answers;
    * ``delta``: mean over the tasks of the error that is saved, in percent of that of one model per task (boosted
      stumps), which the literature calls the multi-task gain;
    * ``worst``: the largest error of a task;
    * ``belonging``, ``outlying``: mean error of the tasks that belong together and of the others, where that is known;
      ``found``: area under the curve by which a system's outlier scores tell them apart.

    Examples
    --------
    >>> problem = MultiTaskTraining()
    >>> data = problem.load("random-tasks", n_tasks=3, n_outliers=1, per_task=30, tested=50)
    >>> linear = problem.baselines(data)[-1]
    >>> 0 < problem.run(linear, data, seed=0).metrics["error"] < 1.5
    True
    """

    key: ClassVar[str] = "multi-task-training"
    title: ClassVar[str] = "Multi-task training"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("error", "Error, mean over the tasks", higher_is_better=False),
        Metric("delta", "Error saved against one model per task", unit="%"),
        Metric("worst", "Error of the worst task", higher_is_better=False),
        Metric("belonging", "Error of the tasks that belong together", higher_is_better=False),
        Metric("outlying", "Error of the outlier tasks", higher_is_better=False),
        Metric("found", "Outlier tasks told apart by their scores"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(X, y, task=)", "predict(X, task=)")
    options_class = MultiTaskOptions

    def load(self, source: Any, **options: Any) -> MultiTaskData:
        """Take ``random-tasks``, or what :func:`~anytask.datasets.target_tables.load_targets` takes."""
        return read(source, self.check_options(options))

    def baselines(self, data: MultiTaskData) -> tuple[Entrant, ...]:
        """Return networks, boosted stumps, LightGBM and linear models, per task and for all, as far as installed."""
        return tuple(entrant for entrant in (*NETWORKS, *BASELINES) if self.refuses(entrant, data) is None)

    def refuses(self, entrant: Entrant, data: MultiTaskData) -> str | None:
        """Refuse classes that lack a package, and those that learn one kind of target where there are two."""
        if reason := super().refuses(entrant, data):
            return reason
        try:
            model = entrant.make("small")
        except ImportError as error:
            return f"{error}."
        if getattr(model, "alike", False) and len(set(data.kinds.values())) > 1:
            return f"{entrant.name} learns tasks of one kind, and here are numbers and classes."
        return None

    def train(self, entrant: Entrant, data: MultiTaskData, seed: int, progress: Progress) -> Any:
        """Fit a model to the training rows; a preset ``small`` is taken where the entrant names none."""
        world = data.instance(seed)
        return _fitted(entrant, data, seed, progress, world.shown(world.train))

    def refit(self, entrant: Entrant, data: MultiTaskData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit a model to all of the rows."""
        world = data.instance(seed)
        model = _fitted(entrant, data, seed, heard(progress), world.shown(np.arange(len(world.table.X))))
        return Trained(
            (model, world.table.inputs),
            (
                entrant.import_line,
                "from anytask.datasets.inputs import Inputs",
                f'model, inputs = {entrant.class_name}.load("{{folder}}"), Inputs.load("{{folder}}")',
                f"answers = model.predict(inputs(X))  # X: {world.table.inputs.wanted}",
            ),
            (*getattr(data.source, "notes", ()), *data.notes, "Answers have a column for each of model.tasks_."),
        )

    def test(self, entrant: Entrant, trained: Any, data: MultiTaskData, seed: int, progress: Progress) -> Outcome:
        """Measure the error of each task on the test rows."""
        world, start = data.instance(seed), time.perf_counter()
        errors = _errors(trained, world, data)
        cost = {"labels": float(world.labels), "predict_seconds": time.perf_counter() - start}
        alone = _kept(data.fingerprint, seed)
        if not alone:
            model = trained if entrant == _ALONE else _fitted(_ALONE, data, seed, heard(None), world.shown(world.train))
            alone |= _errors(model, world, data)
        saved = [100 * (1 - errors[name] / alone[name]) for name in errors if alone[name] > 0]
        values = np.array(list(errors.values()))
        metrics = {"error": values.mean(), "worst": values.max(), **({"delta": np.mean(saved)} if saved else {})}
        if world.outlier is not None and world.outlier.any():
            metrics |= {"belonging": values[~world.outlier].mean(), "outlying": values[world.outlier].mean()}
            if hasattr(trained, "outlier_score_"):
                metrics["found"] = roc_auc_score(world.outlier, trained.outlier_score_)
        progress(1.0)
        details = {"errors": {str(name): value for name, value in errors.items()}}
        return Outcome({name: float(value) for name, value in metrics.items()}, details, cost)

    def figures(self, data: MultiTaskData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the error of each task, and the mean rank over the tasks."""
        import plotly.graph_objects as go

        done = finished(runs)
        means = {name: pd.DataFrame([run.details["errors"] for run in mine]).mean() for name, mine in done.items()}
        if not means:
            return []
        table = pd.DataFrame(means)  # (tasks, entrants)
        rank = table.rank(axis=1).mean().sort_values()
        bars = [go.Bar(name=name, x=list(table.index), y=table[name].tolist()) for name in table]
        ranks = go.Figure(go.Bar(x=list(rank.index), y=rank.tolist()))
        return [
            ("Error of each task", "Mean over the seeds.", go.Figure(bars)),
            ("Mean rank", "Mean over the tasks of the rank by error there; 1 is best everywhere.", ranks),
        ]


def _fitted(entrant: Entrant, data: MultiTaskData, seed: int, progress: Progress, shown: tuple[Any, ...]) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    model.fit(*shown, **taken(model.fit, progress=progress, kinds=list(data.kinds.values())))
    return model


def _errors(model: Any, world: Instance, data: MultiTaskData) -> dict[Any, float]:
    """Return the error of each task that is tested."""
    errors: dict[Any, float] = {}
    for name, y, rows in world.tested():
        if not len(rows):
            continue
        truth, answers = y.iloc[rows], np.asarray(model.predict(world.table.X[rows], name))
        if data.kinds[y.name] == "classification":
            errors[name] = float(np.mean([a != b for a, b in zip(answers.tolist(), truth.tolist())]))
        else:
            off = root_mean_squared_error(truth.to_numpy(float), answers.astype(float))
            errors[name] = float(off / np.std(y.dropna().to_numpy(float)))
    return errors


@lru_cache(maxsize=8)
def _kept(fingerprint: str, seed: int) -> dict[Any, float]:
    """Return where the errors of one model per task are kept, which are the same for all entrants."""
    return {}
