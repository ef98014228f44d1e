"""Which runs a comparison consists of, before any of them starts.

The module is not called ``plan``, because a submodule of that name would hide the function ``anytask.bench.plan``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import joblib

import anytask
from anytask.bench.store import jsonable
from anytask.core.errors import check_each, instance_of, shown
from anytask.problems.base import Entrant, Problem

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class PlanItem:
    """One run to make: an entrant, a seed, and the key under which the run is stored."""

    entrant: Entrant
    seed: int
    key: str


class LeftOut(NamedTuple):
    """An entrant that cannot take part, and why, in one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison, seeds outermost, so that a part of them is already a fair comparison.

    Attributes
    ----------
    items : tuple of PlanItem
        In the order in which they start.
    entrants : tuple of Entrant
        Who takes part.
    seeds : tuple of int
        The seeds every one of them runs with.
    options : dict
        The problem's options.
    left_out : tuple of LeftOut
        Who cannot take part, and why.
    """

    items: tuple[PlanItem, ...]
    entrants: tuple[Entrant, ...]
    seeds: tuple[int, ...]
    options: Mapping[str, Any]
    left_out: tuple[LeftOut, ...] = ()


def plan(
    problem: Problem,
    data: Any,
    entrants: Iterable[Entrant],
    seeds: int | Sequence[int] = 5,
    *,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Lay out the runs of a comparison and give each its key.

    Parameters
    ----------
    problem : Problem
        The kind of problem; its ``refuses`` decides who can take part.
    data : ProblemData
        The loaded data.
    entrants : iterable of Entrant
        Who is to take part; names must be unique.
    seeds : int or sequence of int, default 5
        A number n stands for 0 ... n-1.
    options : mapping, optional
        The problem's options, where the data do not tell them (``describe()["options"]``).

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        For names that occur twice, seeds that are negative or occur twice, or no entrants at all.
    TypeError
        For constructor arguments that JSON cannot hold.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(key="toy", refuses=lambda entrant, data: None)
    >>> data = SimpleNamespace(name="d", fingerprint="f", describe=dict)
    >>> two = [Entrant("a", "anytask:A"), Entrant("b", "anytask:B")]
    >>> [(item.seed, item.entrant.name) for item in plan(toy, data, two, seeds=2).items]
    [(0, 'a'), (0, 'b'), (1, 'a'), (1, 'b')]
    """
    for name, value, members in (("problem", problem, ("key", "refuses")), ("data", data, ("fingerprint", "describe"))):
        if not all(hasattr(value, member) for member in members):
            raise TypeError(f"{name} must have {' and '.join(members)}, got {shown(value)}")
    entrants = tuple(check_each(entrants, Entrant, "entrants"))
    instance_of("options", Mapping)(options)
    seeds = check_seeds(seeds)
    names = [entrant.name for entrant in entrants]
    if not entrants:
        raise ValueError("there is nothing to compare: no systems and no baselines")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names must be unique within a comparison; given twice: {', '.join(map(repr, twice))}")
    taking_part, left_out = [], []
    for entrant in entrants:
        _check_params(entrant)
        reason = problem.refuses(entrant, data)
        if reason is None:
            taking_part.append(entrant)
        else:
            left_out.append(LeftOut(entrant.name, reason))
    same: dict[str, str] = {}
    for entrant in entrants:
        content = json.dumps([entrant.entry, jsonable(entrant.settings)], sort_keys=True)
        other = same.setdefault(content, entrant.name)
        if other != entrant.name:
            raise ValueError(f"{other!r} and {entrant.name!r} are the same class with the same arguments")
    told = data.describe().get("options")
    settings = _plain(told if isinstance(told, Mapping) else options or {})
    what = {"problem": problem_identity(problem), "data": data.fingerprint, "options": settings}
    code = {entrant.entry: _code(entrant.entry) for entrant in taking_part}
    items = tuple(
        PlanItem(entrant, seed, run_key(what, entrant, seed, code[entrant.entry]))
        for seed in seeds
        for entrant in taking_part
    )
    return Plan(items, tuple(taking_part), seeds, settings, tuple(left_out))


def run_key(what: Mapping[str, Any], entrant: Entrant, seed: int, code: str | None = None) -> str:
    """Return the SHA-256 of everything that settles a run's result, as canonical JSON.

    That is the problem, the content of the data, the options, the class with its constructor arguments, the seed and
    the version of anytask; for classes from outside anytask, also their source file (``code``). The name and the role
    of the entrant do not matter.
    """
    content = {
        **what,
        "entry": entrant.entry,
        "params": jsonable(entrant.settings),
        "code": code,
        "seed": seed,
        "anytask": anytask.__version__,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds as a tuple; an int n stands for 0 ... n-1.

    Examples
    --------
    >>> check_seeds(3), check_seeds([7, 1])
    ((0, 1, 2), (7, 1))
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        return tuple(range(seeds))
    if isinstance(seeds, (bool, str)) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a number of seeds or a list of integers, got {seeds!r}")
    listed = [seed.item() if hasattr(seed, "item") else seed for seed in seeds]
    wrong = [seed for seed in listed if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0]
    if wrong or not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds must be distinct integers of at least 0, and at least one of them, got {listed}")
    return tuple(listed)


def problem_identity(problem: Problem) -> dict[str, Any]:
    """Return what tells a problem from others: its key, its class, and a hash of its own settings, if it has any.

    Two problem objects that share a key but differ in class or settings must never share stored runs.
    """
    cls = type(problem)
    settings = vars(problem)
    state = None
    if settings:
        try:
            state = joblib.hash(settings)
        except Exception:
            # Not picklable by name (a lambda, say). By value it may hash differently another day; then runs are made
            # anew, which is safe.
            state = hashlib.sha256(pickle.dumps(joblib.wrap_non_picklable_objects(settings))).hexdigest()
    return {"key": problem.key, "class": f"{cls.__module__}:{cls.__qualname__}", "state": state}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON. An object (a language model, say) is named by its class: the fingerprint tells it apart."""
    plain = {}
    for name, value in options.items():
        try:
            plain[name] = jsonable(value)
        except TypeError:
            plain[name] = f"<{type(value).__module__}.{type(value).__qualname__}>"
    return plain


def _check_params(entrant: Entrant) -> None:
    if entrant.entry.count(":") != 1:
        raise ValueError(f"{entrant.name}: entry must read 'module:Class', got {entrant.entry!r}")
    for name, value in entrant.settings.items():
        try:
            json.dumps(jsonable(value), allow_nan=False)
        except TypeError as error:
            raise TypeError(f"{entrant.name}: constructor argument {name!r} is not JSON-able: {error}") from None


def _code(entry: str) -> str | None:
    """A hash of the source behind an entry; None for anytask's own classes, whose version says it."""
    module, name = entry.split(":")
    if module == "anytask" or module.startswith("anytask."):
        return None
    try:
        if module == "__main__":
            source = inspect.getsource(getattr(sys.modules["__main__"], name)).encode()
        else:
            spec = importlib.util.find_spec(module)
            source = Path(spec.origin).read_bytes() if spec and spec.origin else b""
    except (ImportError, OSError, ValueError, AttributeError, TypeError):
        return None  # classes typed into a prompt have no source, and a missing module fails in its run
    return hashlib.sha256(source).hexdigest()
