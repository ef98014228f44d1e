"""The data of source-selection: a table with the task of each row, random linear tasks, or corrupted digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, real, taken, text, whole
from anytask.datasets.source_tasks import CORRUPTED, corrupted_tasks, random_sources
from anytask.datasets.target_tables import TargetTable, load_targets
from anytask.problems.options import Options, listed
from anytask.problems.training import Builtin, LoadedData

#: The name of the tasks that a seed draws anew.
RANDOM = "random-sources"


class SourceSelectionOptions(Options):
    """How a table is read, which task is the target, how many labels there are, and what built-in tasks are like."""

    read_only: ClassVar[tuple[str, ...]] = ("targets", "task", "missing")

    targets: tuple[str, ...] | None = listed("column with the label of each row")
    task: str | None = text(None, "column with the task of each row", optional=True)
    target: str | None = text(None, "the target task; that of the fewest rows unless given", optional=True)
    kind: str | None = choice(
        None, ("regression", "classification"), "of the labels; told by their values unless given", optional=True
    )
    missing: str = choice("refuse", ("refuse", "impute"), "missing inputs: an error, or the median of their column")
    target_labels: int = whole(100, "labels of the target; its other rows are tested on", at_least=2)
    budget: int = whole(2000, "labels of all sources together")
    tested: int = whole(2000, "random-sources: test rows", at_least=2)
    n_sources: int = whole(60, "random-sources: how many there are")
    features: int = whole(20, "random-sources: features")
    rank: int = whole(5, "random-sources: width of the subspace that tasks share")
    noise: float = real(1.0, "random-sources: deviation of the labels' noise", at_least=0)

    def _check_settings(self) -> None:
        if self.rank > self.features:
            raise ValueError(f"rank={self.rank} is more than features={self.features}")


@dataclass(frozen=True)
class Instance:
    """What one seed shows: the target's labelled rows, the sources, the test, and the true heads where known."""

    target: tuple[Any, Any]
    sources: Mapping[Any, Any]
    test: tuple[Any, Any]
    every: int  # labels that there are
    heads: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class SourceSelectionData(LoadedData):
    """A table with a task in each row, or the name of tasks that a seed draws anew; the options; the kind of labels.

    Examples
    --------
    >>> data = read("digits-corrupted", SourceSelectionOptions(target_labels=20))
    >>> world = data.instance(seed=0)
    >>> len(world.sources), len(world.target[1]), data.kind
    (79, 20, 'classification')
    """

    source: TargetTable | Builtin
    kind: str = "regression"
    target: Any = None

    def instance(self, seed: int) -> Instance:
        """Return what one seed shows."""
        o = self.options
        if self.name == RANDOM:
            made = {name: getattr(o, name) for name in ("n_sources", "features", "rank", "noise")}
            sources, target, heads = random_sources(seed, **made)
            X = np.random.default_rng(derive(seed, RANDOM, "test")).standard_normal((o.tested, o.features))
            test, shown = (X, X @ target.weights), target.draw(o.target_labels)
            return Instance(shown, dict(enumerate(sources)), test, 10 * o.budget, heads)
        if isinstance(self.source, Builtin):
            pools, shown, test = corrupted_tasks(seed, self.name, o.target_labels)
        else:
            task, rows = np.asarray(self.source.task), self.rows
            own = task == self.target
            pools = {name: rows(task == name) for name in np.unique(task[~own]).tolist()}
            order = np.random.default_rng(derive(seed, "source-selection")).permutation(np.flatnonzero(own))
            shown, test = rows(order[: o.target_labels]), rows(order[o.target_labels :])
        return Instance(shown, pools, test, sum(len(y) for _, y in pools.values()))

    def rows(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels of some rows of the table."""
        table = cast(TargetTable, self.source)
        y = table.Y.iloc[:, 0][which]
        return table.X[which], y.to_numpy(float) if self.kind == "regression" else np.array(y.tolist())

    def facts(self) -> dict[str, Any]:
        """Return the rows of each task, and which is the target."""
        if isinstance(self.source, Builtin):
            return {}
        names, counts = np.unique(np.asarray(self.source.task), return_counts=True)
        rows = {str(name): int(n) for name, n in zip(names.tolist(), counts)}
        return {"rows": len(self.source.X), "tasks": rows, "target": str(self.target), "kind": self.kind}


def read(source: Any, options: SourceSelectionOptions) -> SourceSelectionData:
    """Return built-in tasks, or a checked table: a target of enough rows, and fewer labels to buy than there are."""
    from anytask.multitask.parts.targets import read_targets

    o = options
    if isinstance(source, str) and source in (RANDOM, *CORRUPTED):
        if o.targets or o.task or o.target or o.kind:
            raise BadData(f"{source}: built-in data have their own tasks: leave targets, task, target and kind out")
        return SourceSelectionData(Builtin(source), o, (), "regression" if source == RANDOM else "classification")
    table = load_targets(source, **taken(load_targets, **o.as_dict()))
    if table.task is None or len(np.unique(table.task)) < 2:
        raise BadData(f"{table.name}: name the column with the task of each row, which has two or more: task=shop")
    names, found = np.unique(table.task, return_counts=True)
    counts = dict(zip(names.tolist(), found.tolist()))
    known = {str(name): name for name in counts}
    if o.target is not None and o.target not in known:
        raise BadData(f"{table.name}: no task {o.target!r}; its tasks: {', '.join(known)}")
    target = min(counts, key=lambda name: counts[name]) if o.target is None else known[o.target]
    if counts[target] <= o.target_labels:
        few = f"task {target!r} has {counts[target]} rows, of which target_labels={o.target_labels} are to be shown"
        raise BadData(f"{table.name}: {few} and the others tested on: lower target_labels")
    if (every := len(table.X) - counts[target]) <= o.budget:
        raise BadData(f"{table.name}: budget={o.budget} buys all {every} labels of the sources: lower it")
    if o.budget < 4 * (n := len(counts) - 1):  # the least of each, by default
        raise BadData(f"{table.name}: budget={o.budget} is less than 4 labels of each of {n} sources: raise it")
    try:
        kind = read_targets(table.Y, table.task, o.kind, len(table.X)).kinds[0]
    except (TypeError, ValueError) as error:
        raise BadData(f"{table.name}: {error}") from error
    note = f"The target is the task {target!r}, of {kind}. target=... and kind=... say otherwise."
    return SourceSelectionData(table, o, (note,), kind, target)
