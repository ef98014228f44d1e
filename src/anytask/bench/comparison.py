"""``compare``: who does best on some data, by how much, at what cost.

The module is not called ``compare``, because a submodule of that name would hide the function
``anytask.bench.compare``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anytask.bench import saving
from anytask.bench.planning import plan
from anytask.bench.registration import Registration
from anytask.bench.results import Group, Results
from anytask.bench.run import Listener, check_execution, execute, once_begun
from anytask.bench.store import RunStore, jsonable
from anytask.core.errors import check_flags, shown
from anytask.core.files import as_path
from anytask.problems.base import Entrant, Problem

if TYPE_CHECKING:
    from anytask.bench.wording import TerminalTable

__all__ = ["Comparison", "compare"]


def compare(
    problem: str | Problem,
    data: Any,
    systems: str | Sequence[str | Entrant | type] = "all",
    *,
    seeds: int | Sequence[int] | Literal["auto"] = "auto",
    baselines: bool = True,
    jobs: int = 2,
    backend: str = "loky",
    store: str | os.PathLike[str] | RunStore | None = None,
    resume: bool = True,
    budget_seconds: float | None = None,
    report: str | os.PathLike[str] | None = None,
    mlflow: str | None = None,
    save_best: str | os.PathLike[str] | None = None,
    progress: bool = False,
    on_event: Listener | None = None,
    **options: Any,
) -> Comparison:
    """Run systems and baselines on your data with the same seeds, and say who does best and whether it is chance.

    Bad input raises before anything runs or is written. A run that fails does not end the comparison. While it runs,
    ``RunStore.request_stop`` (the stop button of ``anytask app``) ends it early: runs that have begun still end.

    Parameters
    ----------
    problem : str or Problem
        A key out of :data:`anytask.problems.KEYS`, or an object of your own.
    data : any
        What the problem's ``load`` takes (a built-in name, a path, arrays), or data that it has loaded.
    systems : "all", or a sequence of str, Entrant or type, default "all"
        Catalogue keys, keys joined by "+" for one entrant made of several systems ("votek+llmlingua2", where the
        problem has such), :class:`~anytask.problems.base.Entrant` objects or classes. "all" stands for every available
        system whose card names the problem. Those the problem refuses on these data are left out, and noted.
    seeds : int, sequence of int or "auto", default "auto"
        A number n stands for 0 ... n-1; "auto" for 5, or 3 where a real language model answers, which takes minutes.
    baselines : bool, default True
        Whether the problem's baselines take part.
    jobs, backend, resume, budget_seconds, progress, on_event
        As in :func:`anytask.bench.execute`.
    store : path or RunStore, optional
        SQLite file that keeps every run and spares the ones it holds; None keeps them in memory.
    report : path, optional
        HTML file to write; see :func:`anytask.bench.write_report`.
    mlflow : str, optional
        Tracking URI that the runs are exported to.
    save_best : path, optional
        Folder for the winner, trained on all of the data; see :meth:`Comparison.save_best`. What became of it is in
        ``saved``.
    **options
        The problem's options, as its ``load`` takes them.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        For unknown or planned systems, systems that the problem refuses, if it refuses all of them, data that cannot be
        used, unknown options, files and folders that cannot be written, and entrants that ``save_best`` could not save.
    KeyError
        For unknown catalogue keys (:class:`anytask.catalogue.UnknownSystem`, with near matches).
    ImportError
        If the backend or MLflow is not installed; it names the extra.
    ComparisonFailed
        A ``RuntimeError``: once runs have begun, if the store is deleted, replaced, damaged or full, or the report or
        the export cannot be written. What had ended is in the store, as long as there is one.

    Examples
    --------
    >>> from anytask.bench import compare
    >>> result = compare("task-stream", "digits", ["prd"], seeds=3)  # doctest: +SKIP
    >>> result.table()[["name", "mean", "low", "high"]]  # doctest: +SKIP
    """
    check_execution(jobs, backend, budget_seconds)
    if report is not None:
        _check_file(as_path(report, "report"))
    if save_best is not None:
        saving.check_folder(save_best)
    if mlflow is not None and importlib.util.find_spec("mlflow") is None:
        raise ImportError("exporting runs needs MLflow: pip install 'anytask[mlflow]'")
    if isinstance(problem, str):
        from anytask import problems

        problem = problems.get(problem)
    loaded = data if isinstance(getattr(data, "fingerprint", None), str) and hasattr(data, "describe") else None
    named = _entrants(problem, systems)
    if loaded is None:
        problem.check_options(options)
        loaded = problem.load(data, **options)
    elif options:
        raise ValueError(f"the data are loaded already: {', '.join(options)} must be given when loading them")
    own = {_identity(entrant) for entrant in named}
    others = [e for e in problem.baselines(loaded) if _identity(e) not in own] if baselines else []
    defaults = {name: default for name, (default, _) in problem.options.items()}
    wanted = problem.seeds(loaded) if isinstance(seeds, str) and seeds == "auto" else seeds
    layout = plan(problem, loaded, [*named, *others], wanted, options=defaults | options)
    refused = {left.name: left.reason for left in layout.left_out}
    unable = {entrant.name: refused[entrant.name] for entrant in named if entrant.name in refused}
    if unable and len(unable) == len(named) and (systems != "all" or not others):  # nobody that was asked for
        raise ValueError("; ".join(f"{name} cannot take part: {reason}" for name, reason in unable.items()))
    if save_best is not None:
        saving.check_entrants(problem, loaded, layout.entrants)
    if mlflow is not None:
        from anytask.bench.mlflow_export import check_uri, export

        check_uri(mlflow)

    comparison = Comparison(
        problem=problem,
        data=loaded,
        plan=layout,
        runs=[],
        source=None if data is loaded else data,
        options=options,
        baselines=baselines,
    )
    runs = store if isinstance(store, RunStore) else RunStore(":memory:" if store is None else store)
    try:
        with Registration(runs, comparison) as registration:
            done = execute(
                layout,
                problem,
                loaded,
                runs,
                jobs=jobs,
                backend=backend,
                resume=resume,
                budget_seconds=budget_seconds,
                progress=progress,
                on_event=on_event,
                should_stop=registration.should_stop,
            )
            registration.stopped = done.stopped
    finally:
        if runs is not store:
            runs.close()
    comparison = replace(comparison, runs=done.runs, not_run=done.not_run, stopped=done.stopped)
    with once_begun(ValueError, OSError):
        if report is not None:
            comparison.report(report)
        if mlflow is not None:
            export(comparison, mlflow)
    if save_best is not None:
        comparison.saved = saving.try_to_save(comparison, save_best, progress)
    return comparison


@dataclass
class Comparison(Results):
    """The outcome of :func:`compare`: every run, the ranking, and what to make of it.

    Attributes
    ----------
    saved : Saved or None
        What became of ``compare(..., save_best=...)``.
    """

    saved: saving.Saved | None = None

    def headline(self) -> str:
        """Return the answer in plain words, saying so when it may be chance."""
        from anytask.bench.wording import headline

        return headline(self)

    def to_json(self, details: bool = False) -> dict[str, Any]:
        """Return everything as JSON-able values; the runs' series for the report only with ``details``."""
        check_flags(details=details)
        runs = [run.to_dict() for run in self.runs]
        if not details:
            for run in runs:
                del run["details"]
        return jsonable(
            {
                "problem": self.problem.key,
                "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
                "headline": self.headline(),
                "primary": self.primary.key,
                "higher_is_better": self.primary.higher_is_better,
                "best": self.best.name if self.best else None,
                "groups": [self._group_record(group) for group in self.groups],
                "rows": [self._record(row) for row in self.rows],
                "runs": runs,
                "warnings": self.warnings,
                "failed": [_who(run.entrant_name, run.seed) | (run.error or {}) for run in self.failed],
                "not_run": [_who(item.entrant.name, item.seed) for item in self.not_run],
                "left_out": [left._asdict() for left in self.left_out],
                "seeds": self.plan.seeds,
                "options": self.plan.options,
                "command": self.command,
                "saved": None if self.saved is None else asdict(self.saved),
            }
        )

    def save_best(self, folder: str | os.PathLike[str], progress: bool = False) -> saving.Saved:
        """Train the winner (:attr:`best`) on all of the data with the settings of its runs, and write it to a folder.

        Parameters
        ----------
        folder : path
            New, empty, or written by an earlier call, which is replaced. Beside the model there are ``README.txt`` and
            ``anytask.json``, which say what it is and how it is used.
        progress : bool, default False
            Show a progress bar on stderr.

        Returns
        -------
        Saved
            ``usage`` holds the lines of Python that load and use the winner.

        Raises
        ------
        ValueError
            If there is no winner, it cannot be saved, or the folder cannot be used.
        """
        return saving.save_best(self, folder, progress)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the comparison as one self-contained HTML file."""
        from anytask.bench.report import write_report

        write_report(self, path)

    def rich_table(self) -> TerminalTable:
        """Return the ranking for ``rich.console.Console.print``, which fits it to the terminal's width."""
        from anytask.bench.wording import TerminalTable

        return TerminalTable(self)

    def _group_record(self, group: Group) -> dict[str, Any]:
        ranking = self.ranking(group)
        return {
            "sees": group.sees,
            "names": [row.name for row in group.rows],
            "best_baseline": group.best_baseline,
            "average_ranks": ranking and ranking.average_ranks,
            "friedman_p": ranking and ranking.p,
            "critical_difference": ranking and ranking.critical_difference,
        }


def _entrants(problem: Problem, systems: str | Sequence[str | Entrant | type]) -> list[Entrant]:
    """Return the named systems as entrants."""
    from anytask import catalogue

    if isinstance(systems, str) and systems == "all":
        cards = [c for c in catalogue.SYSTEMS if problem.key in c.problems and catalogue.state(c) == "available"]
        if not cards:
            raise ValueError(f"no available system in the catalogue is for {problem.key}: name classes or entrants")
        return [Entrant(card.key, card.entry, key=card.key) for card in cards]
    if isinstance(systems, (str, type, Entrant)):
        systems = [systems]
    if not isinstance(systems, Iterable) or getattr(systems, "ndim", 1) != 1:
        raise TypeError(f"systems must be 'all' or a list of keys, classes and entrants, got {shown(systems)}")
    entrants = []
    for system in systems:
        if isinstance(system, Entrant):
            entrants.append(system)
        elif isinstance(system, type):
            if "." in system.__qualname__:
                raise ValueError(f"{system.__qualname__} must be defined at the top of its module, so workers find it")
            entrants.append(Entrant(system.__name__, f"{system.__module__}:{system.__name__}"))
        elif isinstance(system, str) and "+" in system:
            entrants.append(problem.stacked(_entrants(problem, [key.strip() for key in system.split("+")])))
        elif isinstance(system, str):
            card = catalogue.get(system)
            if catalogue.state(card) != "available":
                raise ValueError(f"{card.key} is planned, not available yet; `anytask list` shows which are")
            if problem.key in catalogue.PROBLEMS and problem.key not in card.problems:
                raise ValueError(f"{card.key} is not for {problem.key}, but for {', '.join(card.problems)}")
            entrants.append(Entrant(card.key, card.entry, key=card.key))
        else:
            raise TypeError(f"systems must be catalogue keys, Entrant objects or classes, got {system!r}")
    return entrants


def _identity(entrant: Entrant) -> tuple[str, str]:
    return entrant.entry, repr(sorted(entrant.settings.items()))


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: the report has to be a file")
    if not path.parent.is_dir():
        raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the report {path} cannot be written: no permission in {path.parent}")


def _who(name: str, seed: int) -> dict[str, Any]:
    return {"name": name, "seed": seed}
