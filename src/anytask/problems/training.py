"""Bases of the problems that train a system once and then test it."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from anytask.core.progress import Progress, heard, portion
from anytask.problems.base import Entrant, Outcome, Problem
from anytask.problems.options import Options


@dataclass(frozen=True)
class Builtin:
    """Content that a seed draws anew, known by its name."""

    name: str

    @property
    def fingerprint(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True)
class LoadedData:
    """What was loaded, with the checked options.

    Attributes
    ----------
    source : object with ``name`` and ``fingerprint``
        The content.
    options : Options
    notes : tuple of str
        Sentences for the report on what was settled in loading.
    """

    source: Any
    options: Any
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option that changes what a run sees."""
        return fingerprint_of(self.source.fingerprint, self.options)

    def facts(self) -> dict[str, Any]:
        """Return what is to be said of the content."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        notes = [*getattr(self.source, "notes", ()), *self.notes]
        return {
            "source": self.name,
            **self.facts(),
            "options": self.options.of_a_run(),
            **({"notes": notes} if notes else {}),
            "fingerprint": self.fingerprint,
        }


def fingerprint_of(content: Any, options: Options) -> str:
    """Return a hash of the content, as JSON, and of every option that changes what a run sees."""
    text = json.dumps([content, options.of_a_run()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class Learned:
    """A system that has been trained: what :attr:`Entrant.after` is set on and has a cost, and what it learned from."""

    system: Any
    world: Any = None


class TrainingProblem(Problem):
    """Base of the problems that train a system once and then test it: leaves them :meth:`train` and :meth:`test`.

    The methods that an entrant must have, the times of training and testing, the cost that a system states of itself,
    and the entrants that differ only in what is set after training are common to all. A problem that tests while a
    system learns has :meth:`run_variants` of its own.
    """

    #: Methods that an entrant must have, as they are called: those of its arguments with a "=" are given by name.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Share of a run's progress that training has.
    train_share: ClassVar[float] = 0.7

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Return why an entrant cannot take part; here, because it lacks one of :attr:`needs`."""
        missing = [call for call in self.needs if not _answers(entrant.load(), call)]
        return f"{entrant.name} has no {' and no '.join(missing)}." if missing else None

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Return the entrant's system, or a :class:`Learned`, trained on what this seed shows for training."""
        raise NotImplementedError

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Progress) -> Outcome:
        """Return what the trained system is worth on what this seed holds out; costs it states come first."""
        raise NotImplementedError

    def seeds(self, data: Any) -> int:
        """Return with how many seeds entrants run where nobody says it, by the data's options."""
        return int(data.options.seeds)

    def release(self, data: Any) -> None:
        """Free what this process has read for the data's options."""
        data.options.release()

    def check_entrants(self, entrants: Sequence[Entrant], data: Any) -> None:
        """Raise a ``ValueError`` for the first entrant that cannot take part."""
        for entrant in entrants:
            if reason := self.refuses(entrant, data):
                raise ValueError(f"{entrant.name} cannot take part: {reason}")

    def run(self, entrant: Entrant, data: Any, seed: int, progress: Progress | None = None) -> Outcome:
        """Train one entrant, and test it."""
        return self.run_variants([entrant], data, seed, progress)[0]

    def run_variants(
        self, entrants: Sequence[Entrant], data: Any, seed: int, progress: Progress | None = None
    ) -> list[Outcome]:
        """Train once, and test with what each of the entrants sets after training."""
        share, trains = heard(progress), self.train_share
        self.check_entrants(entrants, data)
        start = time.perf_counter()
        trained = self.train(entrants[0], data, seed, portion(share, 0.0, trains))
        train_seconds = time.perf_counter() - start
        system, outcomes = trained.system if isinstance(trained, Learned) else trained, []
        for place, entrant in enumerate(entrants):
            start = time.perf_counter()
            with entrant.applied_to(system):
                part = [trains + (1 - trains) * done / len(entrants) for done in (place, place + 1)]
                outcome = self.test(entrant, trained, data, seed, portion(share, *part))
            seconds = {"train_seconds": train_seconds, "predict_seconds": time.perf_counter() - start}
            outcome.cost = seconds | own_cost(system) | outcome.cost
            outcomes.append(outcome)
        share(1.0)
        return outcomes


def own_cost(system: Any) -> dict[str, float]:
    """Return what a system states of its cost; nothing where it has no ``cost()``, or nothing that was fitted."""
    stated = hasattr(system, "cost") and getattr(system, "__sklearn_is_fitted__", lambda: True)()
    return {name: float(value) for name, value in system.cost().items()} if stated else {}


def _answers(cls: type, call: str) -> bool:
    """Whether a class has a method that can be called as ``call`` says, such as ``predict(X, task=None)``."""
    method = getattr(cls, call.partition("(")[0], None)
    if method is None:
        return False
    known = inspect.signature(method).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
    return takes_all or set(re.findall(r"(\w+)=", call)) <= set(known)
