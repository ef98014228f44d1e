"""What every kind of problem offers the bench."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from anytask.core.settings import merged, settings_of
from anytask.problems.options import Options

Role = Literal["system", "baseline", "ablation"]

#: What an entrant may be told of the task, from least to most; see :class:`anytask.continual.base.ContinualClassifier`.
LEVELS = ("none", "boundary", "train", "test")


@dataclass(frozen=True)
class Metric:
    """A number a problem measures: its key in :attr:`Outcome.metrics`, how to say it, and which way is better."""

    key: str
    label: str
    higher_is_better: bool = True
    unit: str = ""  # "" for shares in [0, 1], else e.g. "tokens", "batches"


@dataclass(frozen=True)
class Entrant:
    """One row of a comparison: a class, its constructor arguments, and the part it plays.

    Attributes
    ----------
    name : str
        Unique within a comparison ("tame", "fine-tuning", "tame (k=0.5)").
    entry : str
        "module:Class".
    params : mapping
        JSON-able constructor arguments.
    role : {"system", "baseline", "ablation"}
    key : str or None
        The catalogue key where the class is a system.
    preset : str or None
        One of the class's ``PRESETS``; None leaves the choice to the problem.
    after : mapping
        Parameters that are set on the fitted system, so that variants of inference share one training.
    """

    name: str
    entry: str
    params: Mapping[str, Any] = field(default_factory=dict)
    role: Role = "system"
    key: str | None = None
    preset: str | None = None
    after: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, entry: str, params: Mapping[str, Any], role: Role, key: str | None) -> Entrant:
        """Return the entrant whose :attr:`settings` are ``params``, as a store keeps them."""
        params = dict(params)
        preset, after = params.pop("preset", None), params.pop("after", {})
        return cls(name, entry, params, role, key, preset, after)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that distinguishes it from another entrant of the same class, in one mapping."""
        preset = {} if self.preset is None else {"preset": self.preset}
        return {**self.params, **preset, **({"after": dict(self.after)} if self.after else {})}

    def load(self) -> type:
        """Import the class."""
        module, name = self.entry.split(":")
        return getattr(importlib.import_module(module), name)

    def preset_or(self, default: str | None) -> str | None:
        """Return the preset that it is made with, where a problem's own choice is ``default``."""
        chosen = self.preset or self.params.get("preset")
        return default if chosen is None and default in getattr(self.load(), "PRESETS", {}) else chosen

    def make(self, default_preset: str | None = None, **given: Any) -> Any:
        """Return a new object of the class.

        Parameters
        ----------
        default_preset : str, optional
            The preset where the entrant names none; left aside by classes that have no such preset.
        **given
            What the problem settles (seed, batch size, ...): left aside where the class has no such argument, and
            overridden by the entrant's own ``params``.
        """
        cls: Any = self.load()
        known = inspect.signature(cls).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
        params = merged({k: v for k, v in given.items() if k in known or takes_all}, self.params)
        params.pop("preset", None)
        preset = self.preset_or(default_preset)
        if preset is None:
            return cls(**params)
        return cls.from_preset(preset, **params) if hasattr(cls, "from_preset") else cls(preset=preset, **params)

    @contextlib.contextmanager
    def applied_to(self, fitted: Any) -> Iterator[None]:
        """Set :attr:`after` on a fitted system for the time of a block.

        Raises
        ------
        ValueError
            If the system has no such parameter.
        """
        if not self.after:
            yield
            return
        if not hasattr(fitted, "set_params"):
            raise ValueError(f"{self.name}: a fitted {type(fitted).__name__} has no parameters that after= could set")
        params = fitted.get_params()
        if unknown := [name for name in self.after if name not in params]:
            raise ValueError(f"{self.name}: {self.class_name} has no parameter {unknown[0]!r} that after= could set")
        fitted.set_params(**self.after)
        try:
            yield
        finally:
            fitted.set_params(**{name: params[name] for name in self.after})

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return self.entry.split(":")[1]

    @property
    def import_line(self) -> str:
        """The line of Python that imports the class."""
        return f"from {self.entry.split(':')[0]} import {self.class_name}"


@dataclass
class Outcome:
    """What one run gave.

    ``metrics`` are numbers by :attr:`Metric.key`; ``details`` are JSON-able series for the report (accuracy matrix,
    curve over the stream, borders, ...); ``cost`` are counts beside the wall time and memory that the bench takes
    itself: ``trainable_parameters``, ``stored_parameters``, ``stored_samples``, ``labels``, ``lm_calls``,
    ``lm_tokens``, ``train_seconds``, ``predict_seconds``; ``kind`` says which kind of language model took part
    (``http``, ``local``, ``tiny``, ``sim``), ``None`` where none did; ``notes`` are sentences for the report.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    kind: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """An entrant trained on all of the data, ready to be saved.

    Attributes
    ----------
    parts : tuple of objects with ``save(folder)``
        The model, and whatever else its use needs. They share one folder.
    usage : tuple of str
        Lines of Python that load and use it; ``{folder}`` stands for the folder.
    notes : tuple of str
        Sentences on what the model expects.
    """

    parts: tuple[Any, ...]
    usage: tuple[str, ...]
    notes: tuple[str, ...] = ()


class ProblemData(Protocol):
    """Loaded data: picklable, with a content fingerprint, and able to describe itself in a few JSON-able facts."""

    name: str

    @property
    def fingerprint(self) -> str:
        """A hash of the content and of every option that changes what a run sees."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the report: source, sizes, classes, options."""
        ...


class Problem(ABC):
    """A kind of problem: loads data, runs one entrant on them, and says what is measured."""

    key: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]  # the first is the one that ranks
    #: Keys of the metrics that say what an entrant costs: a terminal always shows them.
    costs: ClassVar[tuple[str, ...]] = ()
    #: What :meth:`load` takes beside the source.
    options_class: ClassVar[type[Options]] = Options
    #: Option name -> (default, help text), read from :attr:`options_class`.
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    #: Baseline name -> "lower" or "upper": references that mark the ends of the scale. An upper bound is told or given
    #: what no system may have: reports set it apart, it has no rank, and no system is asked to beat it.
    bounds: ClassVar[Mapping[str, Literal["lower", "upper"]]] = {}
    #: Upper bound -> what it is given that no system may have, in words ("all data at once").
    privileges: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.options = {setting.name: (setting.default, setting.help) for setting in settings_of(cls.options_class)}

    @property
    def primary(self) -> Metric:
        """The metric that ranks."""
        return self.metrics[0]

    def check_options(self, options: Mapping[str, Any]) -> Any:
        """Return the options with these values, and the defaults of the others.

        Raises
        ------
        BadData
            Naming an option that there is not, with the nearest one, or a value that is out of its range.
        """
        return self.options_class.checked(options, self.key)

    @abstractmethod
    def load(self, source: Any, **options: Any) -> Any:
        """Return :class:`ProblemData` from a built-in name, a path or arrays, or raise :class:`BadData`."""

    @abstractmethod
    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return the entrants every comparison on these data includes."""

    def stacked(self, entrants: Sequence[Entrant]) -> Entrant:
        """Return one entrant made of several systems, as ``--systems votek+llmlingua2`` asks for it."""
        raise ValueError(f"{self.key} makes no entrant of several systems: name them one by one")

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Return why an entrant cannot take part on these data, in one sentence, or None if it can."""
        return None

    def told(self, sees: str | None, options: Mapping[str, Any]) -> str | None:
        """Return what an entrant whose class declares ``sees`` is told of the task with these options.

        One of :data:`LEVELS`, or None where nothing is declared, which counts as being told nothing. Entrants that are
        told the same are ranked against each other.
        """
        return sees

    def setting(self, data: Any) -> str:
        """Return what entrants have to do with these data, and what nobody tells them, in a sentence or two."""
        return ""

    @abstractmethod
    def run(self, entrant: Entrant, data: Any, seed: int, progress: Callable[[float], None] | None = None) -> Outcome:
        """Run one entrant with one seed. ``progress`` is called with the finished share in [0, 1]."""

    def run_variants(
        self, entrants: Sequence[Entrant], data: Any, seed: int, progress: Callable[[float], None] | None = None
    ) -> list[Outcome]:
        """Run entrants that differ in :attr:`Entrant.after` alone; a problem that can share their training does."""
        return [self.run(entrant, data, seed, progress) for entrant in entrants]

    def unsaveable(self, entrant: Entrant, data: Any) -> str | None:
        """Return why an entrant could not be saved for use after the comparison, in one sentence, or None if it can."""
        if type(self).refit is Problem.refit:
            return f"{self.key} trains nothing that could be saved and used."
        missing = [name for name in ("save", "load") if not hasattr(entrant.load(), name)]
        return f"{entrant.class_name} has no {' and no '.join(missing)}." if missing else None

    def refit(self, entrant: Entrant, data: Any, seed: int, progress: Callable[[float], None] | None = None) -> Trained:
        """Train one entrant as :meth:`run` does, but on all of the data: nothing is held out and nothing measured."""
        raise ValueError(self.unsaveable(entrant, data))

    def forecast(self, entrants: Sequence[Entrant], data: Any, jobs: int = 1) -> str:
        """Return what runs of these entrants, one each, will cost, in a sentence, where that can be told before.

        Asked for under the number of threads that a run gets; ``jobs`` runs go on at a time.
        """
        return ""

    def seeds(self, data: Any) -> int:
        """Return with how many seeds entrants run where nobody says it."""
        return 5

    def release(self, data: Any) -> None:  # noqa: B027 - most problems keep nothing
        """Free what was read for checks and the forecast, before runs go on in processes that read it themselves."""

    def figures(self, data: Any, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return (title, one-sentence caption, plotly figure) triples for the report, beyond the common ones."""
        return []

    def warnings(self, data: Any, runs: list[Any]) -> list[str]:
        """Return sentences on what is wrong with an entrant although it ran, shown with the ranking."""
        return []


def finished(runs: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the runs that are done, by the names of their entrants."""
    done: dict[str, list[Any]] = {}
    for run in runs:
        if run.status == "done":
            done.setdefault(run.entrant_name, []).append(run)
    return done


def policy_usage(entrant: Entrant, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the lines of Python that load a policy and let it act; ``shapes`` are those of one observation, by key."""
    told = {key: f"({', '.join(map(str, ('n', *shape)))})" for key, shape in shapes.items()}
    listed = ", ".join(f"{key!r}: {shape}" for key, shape in told.items())
    about = f"shape {told['observation']}" if set(told) == {"observation"} else f"arrays of the shapes {{{listed}}}"
    return (
        entrant.import_line,
        f'policy = {entrant.class_name}.load("{{folder}}")',
        f"actions = policy.act(obs)  # obs: {about}",
    )
