"""Save the winner of a comparison: trained on all of the data, with the lines of Python that load and use it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anytask
from anytask.bench.results import Results
from anytask.bench.store import jsonable
from anytask.core.errors import check_flags
from anytask.core.files import as_path, replacing
from anytask.problems.base import Entrant, Problem

#: What marks a folder as written here.
_MARK = "anytask.json"


@dataclass(frozen=True)
class Saved:
    """What became of the wish to save the winner.

    Attributes
    ----------
    folder : str
        Where it was to go.
    name, role : str or None
        The winner, and whether it is a system or a baseline; None without one.
    usage : str or None
        Lines of Python that load and use it; None if nothing was saved.
    notes : tuple of str
        Sentences on what it expects.
    error : str or None
        Why nothing was saved.
    """

    folder: str
    name: str | None = None
    role: str | None = None
    usage: str | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        if self.error is not None:
            return f"Nothing was saved in {self.folder}: {self.error}"
        who = f"{self.name}, a baseline," if self.role == "baseline" else self.name
        return f"{who} won; trained on all of the data, it is saved in {self.folder}:"


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder if a winner may be written there: it is new, empty, or holds an earlier winner.

    Raises
    ------
    ValueError
        If it is a file or holds anything else, or its parent is missing or cannot be written.
    """
    path = as_path(folder, "the winner's folder")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and a folder for the winner is wanted")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise ValueError(f"the winner cannot be saved in {path}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise ValueError(f"the winner cannot be saved in {path}: no permission in {parent}")
    if path.is_dir() and any(path.iterdir()) and not (path / _MARK).is_file():
        raise ValueError(f"the folder {path} is not empty and holds no winner of an earlier comparison")
    return path


def check_entrants(problem: Problem, data: Any, entrants: Sequence[Entrant]) -> None:
    """Refuse a comparison whose winner might be one that cannot be saved; bounds and ablations never win.

    Raises
    ------
    ValueError
        Naming everyone who cannot be saved, and why.
    """
    reasons: dict[str, list[str]] = {}
    for entrant in entrants:
        is_bound = entrant.role == "baseline" and entrant.name in problem.bounds
        if entrant.role != "ablation" and not is_bound and (reason := problem.unsaveable(entrant, data)) is not None:
            reasons.setdefault(reason, []).append(entrant.name)
    if reasons:
        told = "; ".join(f"{', '.join(names)}: {reason.removesuffix('.')}" for reason, names in reasons.items())
        raise ValueError(f"the winner could not be saved if it were {told}")


def save_best(comparison: Results, folder: str | os.PathLike[str], progress: bool = False) -> Saved:
    """Train the winner on all of the data and write it; see :meth:`anytask.bench.Comparison.save_best`."""
    check_flags(progress=progress)
    path, best, problem, data = check_folder(folder), comparison.best, comparison.problem, comparison.data
    if best is None:
        raise ValueError("no entrant that may be called best has finished a run")
    if (reason := problem.unsaveable(best, data)) is not None:
        raise ValueError(f"{best.name} won, and {reason}")
    seed = comparison.plan.seeds[0]
    with _bar(f"{best.name} on all of the data", progress) as told:
        trained = problem.refit(best, data, seed, told)
    usage = "\n".join(trained.usage).replace("{folder}", json.dumps(str(folder), ensure_ascii=False)[1:-1])
    saved = Saved(str(folder), best.name, best.role, usage, trained.notes)
    row = next(row for row in comparison.rows if row.name == best.name)
    facts = {
        "problem": problem.key,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "options": comparison.plan.options,
        "entrant": {"name": best.name, "entry": best.entry, "settings": best.settings, "role": best.role},
        "seed": seed,
        "compared": {problem.primary.key: row.primary.mean, "seeds": row.done},
        "saved": asdict(saved),
        "anytask": anytask.__version__,
    }
    measured = f"{problem.primary.label} in the comparison (mean of {row.done} runs): {row.primary.mean:.4g}"
    text = [f"{best.name} ({best.entry}), trained on all of {data.name} with seed {seed}.", measured, "", usage]
    with replacing(path.resolve()) as new:
        new.mkdir()
        with best.applied_to(trained.parts[0]):
            for part in trained.parts:
                part.save(new)
        (new / "README.txt").write_text("\n".join([*text, "", *trained.notes]).rstrip() + "\n", encoding="utf-8")
        (new / _MARK).write_text(json.dumps(jsonable(facts), indent=1, ensure_ascii=False), encoding="utf-8")
    return saved


def try_to_save(comparison: Results, folder: str | os.PathLike[str], progress: bool = False) -> Saved:
    """Save the winner, or return why that could not be done."""
    if comparison.stopped:
        return Saved(str(folder), error="the comparison was stopped")
    try:
        return save_best(comparison, folder, progress)
    except Exception as error:
        best = comparison.best
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Saved(str(folder), best.name if best else None, best.role if best else None, error=lines[0])


@contextlib.contextmanager
def _bar(label: str, shown: bool) -> Iterator[Callable[[float], None] | None]:
    """Show a bar on stderr."""
    if not shown:
        yield None
        return
    from rich.markup import escape
    from rich.progress import Progress

    from anytask.core.terminal import SafeConsole

    with Progress(console=SafeConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(label), total=1.0)
        yield lambda share: progress.update(task, completed=share)
