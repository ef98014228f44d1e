"""The data of multi-task-training: a table with several targets or tasks, or random tasks with outliers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.core.settings import choice, real, taken, text, whole
from anytask.datasets.random_tasks import random_tasks
from anytask.datasets.target_tables import TargetTable, load_targets
from anytask.problems.options import Options, listed
from anytask.problems.splits import split_rows
from anytask.problems.training import Builtin, LoadedData

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
        return self.table.X[rows], self.table.Y.iloc[rows], *task

    @property
    def labels(self) -> int:
        """How many targets there are to learn from."""
        return int(self.table.Y.iloc[self.train].notna().to_numpy().sum())

    def tested(self) -> Iterator[tuple[Any, pd.Series, np.ndarray]]:
        """Yield each task with all targets of its column of Y, and the labelled rows of it to test on."""
        Y, task = self.table.Y, self.table.task
        for name in list(Y.columns) if task is None else np.unique(task).tolist():
            y = Y[name] if task is None else Y.iloc[:, 0]
            own = y.notna().to_numpy() & (True if task is None else task == name)
            yield name, y, self.test[own[self.test]]


@dataclass(frozen=True)
class MultiTaskData(LoadedData):
    """A table, or the name of tasks that a seed draws anew; the options; and the kind of each target.

    Examples
    --------
    >>> data = read("linnerud", MultiTaskOptions())
    >>> world = data.instance(seed=0)
    >>> len(world.train), len(world.test), data.kinds
    (15, 5, {'Weight': 'regression', 'Waist': 'regression', 'Pulse': 'regression'})
    """

    source: TargetTable | Builtin
    kinds: Mapping[Any, str] = field(default_factory=dict)

    def instance(self, seed: int) -> Instance:
        """Return what one seed shows."""
        o = self.options
        if isinstance(self.source, Builtin):
            X, y, task, outlier = random_tasks(seed, o.per_task + o.tested, **taken(random_tasks, **o.as_dict()))
            tested = np.tile(np.arange(o.per_task + o.tested) >= o.per_task, o.n_tasks)
            return Instance(load_targets((X, y, task)), np.flatnonzero(~tested), np.flatnonzero(tested), outlier)
        strata = self.source.task
        if strata is None:  # by the rarest target that a row has
            there = self.source.Y.notna().to_numpy()
            strata = np.where(there, there.sum(axis=0), np.inf).argmin(axis=1)
        rows = split_rows(strata, None, o.test_size, o.max_per_task, seed, ordered=o.split == "ordered")
        return Instance(self.source, *rows)

    def facts(self) -> dict[str, Any]:
        """Return the number of rows, the targets and the tasks."""
        if isinstance(self.source, Builtin):
            return {}
        source, tasks = self.source, {}
        if source.task is not None:
            names, counts = np.unique(source.task, return_counts=True)
            tasks = {"tasks": {str(name): int(n) for name, n in zip(names.tolist(), counts)}}
        return {"rows": len(source.X), "features": source.X.shape[1], "targets": dict(self.kinds), **tasks}


def read(source: Any, options: MultiTaskOptions) -> MultiTaskData:
    """Return a table as :func:`load_targets` reads it, with the kinds of its targets; or the random tasks."""
    from anytask.multitask.parts.targets import MOST_CLASSES, no_number, read_targets

    o = options
    if isinstance(source, str) and source == RANDOM:
        if o.targets or o.task or o.kinds:
            raise BadData(f"{source}: built-in data have their own targets and tasks: leave targets and task out")
        return MultiTaskData(Builtin(source), o, kinds={0: "regression"})
    table = load_targets(source, **taken(load_targets, **o.as_dict()))
    for name, texts in table.Y.select_dtypes(object).items() if o.kinds is None else ():
        there, many = texts.dropna(), texts.nunique()
        if many > max(MOST_CLASSES, len(there) / 2):
            raise BadData(
                f"{table.name}: the target {name!r} holds {many} different texts in {len(there)} rows"
                f"{no_number(there.to_numpy(str))}; kinds=... says what it is"
            )
    try:
        found = read_targets(table.Y, table.task, o.kinds, len(table.X)).kinds
    except (TypeError, ValueError) as error:
        raise BadData(f"{table.name}: {error}") from error
    kinds = dict(zip(table.Y.columns, found))
    if even := [name for name in kinds if kinds[name] == "regression" and table.Y[name].nunique() < 2]:
        raise BadData(f"{table.name}: all values of the target {even[0]!r} are the same")
    notes: tuple[str, ...] = ()
    if table.task is not None:
        tasks, counts = np.unique(table.task, return_counts=True)
        if counts.max() < 2:
            raise BadData(f"{table.name}: all {len(tasks)} tasks have one row each, and none is left to test on")
        if single := tasks[counts < 2].tolist():
            notes = (f"Tasks of one row are trained on, and not tested: {shown(single)}.",)
    said = "; ".join(f"{', '.join(str(n) for n in kinds if kinds[n] == kind)}: {kind}" for kind in dict.fromkeys(found))
    return MultiTaskData(table, o, (f"Targets: {said}. kinds=... says otherwise.", *notes), kinds)
