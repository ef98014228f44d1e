"""Multi-task training: one table with several targets, or with rows of several tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from anytask.core.errors import BadData
from anytask.core.progress import heard
from anytask.core.settings import choice, real, taken, text, whole
from anytask.datasets.inputs import Inputs
from anytask.datasets.random_tasks import random_tasks
from anytask.datasets.target_tables import TargetTable, load_targets
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished
from anytask.problems.options import Options, listed
from anytask.problems.splits import split_rows
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

_BASELINES = "anytask.multitask.baselines"
_ALONE = Entrant("one model per task", f"{_BASELINES}:BoostingPerTask", {}, "baseline")
#: The name of the tasks that a seed draws anew.
RANDOM = "random-tasks"


class MultiTaskOptions(Options):
    """How a table is read, what is tested on, and what ``random-tasks`` are like."""

    read_only: ClassVar[tuple[str, ...]] = ("targets", "task", "missing")

    targets: tuple[str, ...] | None = listed("columns of the targets, as price,churn; empty cells are not labelled")
    task: str | None = text(None, "column with the task of each row; there is then one target", optional=True)
    kinds: tuple[str, ...] | None = listed(
        "regression or classification, for each target; told by their values unless given"
    )
    missing: str = choice("refuse", ("refuse", "impute"), "missing inputs: an error, or the median of their column")
    split: str = choice("random", ("random", "ordered"), "which rows are tested on: drawn by seed, or each task's last")
    test_size: float = real(0.25, "share of each task that is kept for testing", above=0, below=1)
    max_per_task: int | None = whole(None, "at most this many rows of each task, by seed", at_least=2, optional=True)
    n_tasks: int = whole(10, "random-tasks: how many there are", at_least=2)
    n_outliers: int = whole(2, "random-tasks: how many do not belong to the others", at_least=0)
    per_task: int = whole(100, "random-tasks: training rows of each", at_least=2)
    tested: int = whole(500, "random-tasks: test rows of each", at_least=2)
    features: int = whole(5, "random-tasks: features")
    common: float = real(0.9, "random-tasks: share of what tasks have in common", at_least=0, at_most=1)

    def _check_settings(self) -> None:
        if self.n_outliers >= self.n_tasks:
            raise ValueError(f"n_outliers={self.n_outliers} leaves no task that belongs: n_tasks is {self.n_tasks}")


@dataclass(frozen=True)
class Instance:
    """What one seed shows: a table, the rows to train on and to test on, and which tasks are known to be outliers."""

    table: TargetTable
    train: np.ndarray
    test: np.ndarray
    outlier: np.ndarray | None = None

    def shown(self, rows: np.ndarray) -> tuple[Any, ...]:
        """Return inputs, targets and, where there are any, tasks of some rows, as ``fit`` takes them."""
        task = () if self.table.task is None else (self.table.task[rows],)
        Y = self.table.Y.iloc[rows]
        return self.table.X[rows], Y if self.table.task is None else Y.iloc[:, 0], *task


@dataclass(frozen=True)
class MultiTaskData(LoadedData):
    """A table, or the name of tasks that a seed draws anew; and the options.

    Examples
    --------
    >>> data = MultiTaskTraining().load("linnerud")
    >>> world = data.instance(seed=0)
    >>> len(world.train), len(world.test), data.facts()["targets"]
    (15, 5, {'Weight': 'regression', 'Waist': 'regression', 'Pulse': 'regression'})
    """

    source: TargetTable | Builtin

    def instance(self, seed: int) -> Instance:
        """Return what one seed shows."""
        o = self.options
        if isinstance(self.source, Builtin):
            how = {"tasks": o.n_tasks, "outliers": o.n_outliers, "features": o.features, "common": o.common}
            X, y, task, outlier = random_tasks(seed, o.per_task + o.tested, **how)
            table = TargetTable(RANDOM, X.astype(np.float32), pd.DataFrame({"y": y}), task, Inputs((o.features,)))
            tested = np.tile(np.arange(o.per_task + o.tested) >= o.per_task, o.n_tasks)
            return Instance(table, np.flatnonzero(~tested), np.flatnonzero(tested), outlier)
        strata = self.source.task
        if strata is None:  # by the rarest target that a row has
            there = self.source.Y.notna().to_numpy()
            strata = np.where(there, there.sum(axis=0), np.inf).argmin(axis=1)
        rows = split_rows(strata, None, o.test_size, o.max_per_task, seed, ordered=o.split == "ordered")
        return Instance(self.source, *rows)

    @property
    def kinds(self) -> dict[Any, str]:
        """The kind of each target."""
        if isinstance(self.source, Builtin):
            return {"y": "regression"}
        targets = _targets(self.source, self.options)
        return dict(zip(self.source.Y.columns, targets.kinds))

    def facts(self) -> dict[str, Any]:
        """Return the number of rows, the targets and the tasks."""
        if isinstance(self.source, Builtin):
            return {}
        source, tasks = self.source, {}
        if source.task is not None:
            names, counts = np.unique(source.task, return_counts=True)
            tasks = {"tasks": {str(name): int(n) for name, n in zip(names.tolist(), counts)}}
        return {"rows": len(source.X), "features": source.X.shape[1], "targets": self.kinds, **tasks}


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
        """Return a table with checked options; ``source`` as in :func:`load_targets`, or ``random-tasks``."""
        o = self.check_options(options)
        if isinstance(source, str) and source == RANDOM:
            if o.targets or o.task or o.kinds:
                raise BadData(f"{source}: built-in data have their own targets and tasks: leave targets and task out")
            return MultiTaskData(Builtin(source), o)
        table = load_targets(source, **taken(load_targets, **o.as_dict()))
        empty = table.Y.isna().all(axis=1).to_numpy()
        if empty.all():
            raise BadData(f"{table.name}: no row has a target")
        if empty.any():
            note = f"{int(empty.sum())} rows without any target were left out."
            table = replace(
                table, X=table.X[~empty], Y=table.Y[~empty].reset_index(drop=True),
                task=None if table.task is None else table.task[~empty], notes=(*table.notes, note),
            )  # fmt: skip
        try:
            targets = _targets(table, o)
        except (TypeError, ValueError) as error:
            raise BadData(f"{table.name}: {error}") from error
        kinds: dict[str, list[str]] = {kind: [] for kind in ("regression", "classification")}
        for name, kind in zip(table.Y.columns, targets.kinds):
            kinds[kind].append(str(name))
        said = "; ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items() if names)
        return MultiTaskData(table, o, (f"Targets: {said}. kinds=... says otherwise.",))

    def baselines(self, data: MultiTaskData) -> tuple[Entrant, ...]:
        """Return one model per task, one for all, LightGBM where it is installed, and linear models."""
        light, shared = f"{_BASELINES}:LightGBMTasks", "anytask.multitask:RMTGB"
        blocks = {"shared_rounds": 200, "partition_rounds": 0, "task_rounds": 0}
        found = (
            _ALONE,
            Entrant("pooled", shared, blocks, "baseline"),
            Entrant("two blocks", shared, {**blocks, "shared_rounds": 160, "task_rounds": 40}, "baseline"),
            Entrant("LightGBM per task", light, {"how": "each"}, "baseline"),
            Entrant("LightGBM, task as a feature", light, {"how": "feature"}, "baseline"),
            Entrant("linear", f"{_BASELINES}:LinearPerTask", {}, "baseline"),
        )
        return tuple(entrant for entrant in found if self.refuses(entrant, data) is None)

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
        world = data.instance(seed)
        errors = _errors(trained, world, data)
        alone = _kept(data.fingerprint, seed)
        if not alone:
            alone |= errors if entrant == _ALONE else _errors(
                _fitted(_ALONE, data, seed, heard(None), world.shown(world.train)), world, data
            )  # fmt: skip
        saved = [100 * (1 - errors[name] / alone[name]) for name in errors if alone[name] > 0]
        values = np.array(list(errors.values()))
        metrics = {"error": values.mean(), "worst": values.max(), **({"delta": np.mean(saved)} if saved else {})}
        if world.outlier is not None and world.outlier.any():
            metrics |= {"belonging": values[~world.outlier].mean(), "outlying": values[world.outlier].mean()}
            if hasattr(trained, "outlier_score_"):
                metrics["found"] = roc_auc_score(world.outlier, trained.outlier_score_)
        progress(1.0)
        details = {"errors": {str(name): float(value) for name, value in errors.items()}}
        return Outcome({name: float(value) for name, value in metrics.items()}, details, {"labels": _labels(world)})

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


def _targets(table: TargetTable, o: MultiTaskOptions) -> Any:
    from anytask.multitask.parts.targets import read_targets

    Y = table.Y.iloc[:, 0] if table.task is not None and table.Y.shape[1] == 1 else table.Y
    return read_targets(Y, table.task, list(o.kinds) if o.kinds else None, len(table.X))


def _fitted(entrant: Entrant, data: MultiTaskData, seed: int, progress: Progress, shown: tuple[Any, ...]) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    model.fit(*shown, **taken(model.fit, progress=progress, kinds=list(data.kinds.values())))
    return model


def _errors(model: Any, world: Instance, data: MultiTaskData) -> dict[Any, float]:
    """Return the error of each task that is tested."""
    table, errors = world.table, {}
    names = np.unique(table.task) if table.task is not None else np.array(list(table.Y.columns))
    for name in names.tolist():
        column = table.Y.columns[0] if table.task is not None else name
        y, rows = table.Y[column], world.test
        rows = rows[y.notna().to_numpy()[rows]] if table.task is None else rows[table.task[rows] == name]
        if not len(rows):
            continue
        truth, answers = y.iloc[rows], np.asarray(model.predict(table.X[rows], name))
        if data.kinds[column] == "classification":
            labels = np.array(truth.tolist())
            errors[name] = float(
                (answers != (labels if labels.dtype.kind == "U" else labels.astype(answers.dtype))).mean()
            )
        else:
            off = answers.astype(float) - truth.to_numpy(float)
            errors[name] = float(np.sqrt((off**2).mean()) / np.std(y.dropna().to_numpy(float)))
    return errors


def _labels(world: Instance) -> float:
    return float(world.table.Y.iloc[world.train].notna().to_numpy().sum())


@lru_cache(maxsize=8)
def _kept(fingerprint: str, seed: int) -> dict[Any, float]:
    """Return where the errors of one model per task are kept, which are the same for all entrants."""
    return {}
