"""WorkBench: how well a matcher of texts ranks in six groups of tasks of the labour market."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.files import as_path, write_whole
from anytask.core.progress import Progress, heard
from anytask.datasets.workbench import load_workbench
from anytask.parts.ranking import ranking_metrics

__all__ = ["WorkBench", "WorkBenchResult"]


@dataclass(frozen=True)
class WorkBenchResult:
    """What a model reached in each set of a suite."""

    rows: list[dict[str, Any]]

    def table(self) -> pd.DataFrame:
        """Return a row for each set: its group, task, name, language and sizes, and all metrics."""
        return pd.DataFrame(self.rows)

    def groups(self) -> pd.DataFrame:
        """Return the metrics of each group: means over sets of a language, then languages, then tasks."""
        found = self.table().drop(columns=["name", "queries", "targets"])
        for keys in (["group", "task", "language"], ["group", "task"], ["group"]):
            found = found.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
        return found

    @property
    def map(self) -> float:
        """Mean average precision, averaged over the groups."""
        return float(self.groups()["map"].mean())

    @property
    def rp10(self) -> float:
        """R-precision among the ten best, averaged over the groups."""
        return float(self.groups()["rp10"].mean())

    def plot(self) -> Any:
        """Return a figure of the groups."""
        import plotly.graph_objects as go

        found = self.groups()
        bars = [
            go.Bar(name=label, x=found["group"], y=found[key]) for key, label in (("map", "MAP"), ("rp10", "RP@10"))
        ]
        return go.Figure(bars)


class WorkBench:
    """A suite of ranking tasks, each queries that rank a space of targets.

    Parameters
    ----------
    source : path, or sequence
        A folder, tasks of the package workrb, or sets; see :func:`~anytask.datasets.workbench.load_workbench`.

    Attributes
    ----------
    sets : list of RankedSet
        With equal queries and equal targets merged.

    Examples
    --------
    >>> from anytask.datasets.workbench import work_world
    >>> from anytask.pretrain import BM25Pairs
    >>> world = work_world(0)
    >>> result = WorkBench(world.suite).evaluate(BM25Pairs().fit(["a"], ["b"]))
    >>> len(result.table()), 0 < result.map < 1, 0 < result.rp10 < 1
    (6, True, True)
    """

    def __init__(self, source: Any) -> None:
        self.sets = load_workbench(source)

    def evaluate(
        self, model: Any, *, results: str | os.PathLike[str] | None = None, progress: Progress | None = None
    ) -> WorkBenchResult:
        """Let a fitted model rank, and measure it.

        Parameters
        ----------
        model : object with ``scores(queries, targets)``
        results : path, optional
            A JSON file that keeps what each set gave: an evaluation that was interrupted goes on from there. Give every
            model a file of its own.
        progress : callable, optional
            Told the finished share, in [0, 1].
        """
        path = None if results is None else as_path(results, "results")
        rows = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else []
        done = {(row["group"], row["task"], row["name"], row["language"]) for row in rows}
        for place, one in enumerate(self.sets, start=1):
            place_of = {"group": one.group, "task": one.task, "name": one.name, "language": one.language}
            if tuple(place_of.values()) not in done:
                scores = np.asarray(model.scores(one.queries, one.targets), dtype=np.float64)
                sizes = {"queries": len(one.queries), "targets": len(one.targets)}
                rows.append({**place_of, **sizes, **ranking_metrics(scores, one.relevant)})
                if path is not None:
                    write_whole(path, json.dumps(rows))
            heard(progress)(place / len(self.sets))
        return WorkBenchResult(rows)
