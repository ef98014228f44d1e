"""A comparison read back from its store, finished or not: what looks at a store needs neither the data nor the systems.

:class:`~anytask.bench.registration.Registration` notes a comparison in the store while it runs;
:func:`stored_comparison` makes a
:class:`~anytask.bench.comparison.Comparison` of what is noted and of the runs that have ended so far.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from anytask.bench.comparison import Comparison
from anytask.bench.planning import LeftOut, Plan, PlanItem
from anytask.bench.registration import entrant_fields
from anytask.bench.store import Record, Run
from anytask.problems.base import Entrant, Metric, Outcome, Problem


def stored_comparison(record: Record, runs: Mapping[str, Run]) -> StoredComparison:
    """Make a comparison of a record and of the runs that its store holds.

    Parameters
    ----------
    record : Record
        Out of :meth:`anytask.bench.RunStore.comparisons`, or from :func:`loose_records`.
    runs : mapping of str to Run
        By key, as :meth:`anytask.bench.RunStore.runs_of` returns them. Runs that are not there yet are left aside.

    Returns
    -------
    StoredComparison
        Its ``report`` is the one that :func:`anytask.bench.compare` writes.
    """
    body = record.body
    entrants = tuple(Entrant.of(**fields) for fields in body["entrants"])
    pairs = [(seed, entrant) for seed in body["seeds"] for entrant in entrants]
    items = tuple(PlanItem(entrant, seed, key) for (seed, entrant), key in zip(pairs, body["keys"], strict=True))
    found = [
        replace(runs[item.key], entrant_name=item.entrant.name, role=item.entrant.role, system=item.entrant.key)
        for item in items
        if item.key in runs
    ]
    missing = [item for item in items if item.key not in runs]
    return StoredComparison(
        problem=StoredProblem(record.problem, body),
        data=StoredData(record.data_name, record.fingerprint, body["facts"], SimpleNamespace(**body["options"])),
        plan=Plan(items, entrants, tuple(body["seeds"]), body["options"], tuple(LeftOut(*x) for x in body["left_out"])),
        runs=found,
        not_run=[item for item in missing if item.key] if record.state != "running" else [],
        stopped=record.state != "done",
        written_command=body["command"],
    )


def loose_records(runs: Iterable[Run]) -> list[tuple[Record, dict[str, Run]]]:
    """Group runs that no recorded comparison asked for by problem, data and settings, as if each were a comparison.

    Such runs come from :func:`anytask.bench.execute`, and from a version that kept no record of comparisons. Which
    metric ranks, and which way is better, is known for the problems of anytask; elsewhere the first metric ranks, and
    higher counts as better.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.problem, run.data_fingerprint, run.settings], sort_keys=True), []).append(run)
    return [_loose(identity, group) for identity, group in groups.items()]


@dataclass
class StoredComparison(Comparison):
    """A comparison whose command was written down when it ran."""

    written_command: str = ""

    @property
    def command(self) -> str:
        """What to type to get this comparison again."""
        return self.written_command


@dataclass
class StoredData:
    """What is known of data that are not at hand: name, content hash, facts and options."""

    name: str
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)
    options: SimpleNamespace = field(default_factory=SimpleNamespace)

    def describe(self) -> dict[str, Any]:
        """The facts that the data stated of themselves when they were there."""
        return self.facts


class StoredProblem(Problem):
    """What is known of a problem without its module: its metrics and bounds; it cannot run anything."""

    def __init__(self, key: str, body: Mapping[str, Any]) -> None:
        # Every problem has these as class variables; here they differ from one object to the next.
        self.key = key  # type: ignore[misc]
        self.title = body["title"]  # type: ignore[misc]
        self.metrics = tuple(Metric(**fields) for fields in body["metrics"])  # type: ignore[misc]
        self.bounds = dict(body["bounds"])  # type: ignore[misc]
        self.privileges = dict(body.get("privileges", {}))  # type: ignore[misc]
        self._setting = body.get("setting", "")

    def told(self, sees: str | None, options: Mapping[str, Any]) -> str | None:
        """Return what the problem itself says, where it is one of anytask's."""
        from anytask import problems

        return problems.get(self.key).told(sees, options) if self.key in problems.KEYS else sees

    def setting(self, data: Any) -> str:
        """Return the sentence that was written down when it ran."""
        return self._setting

    def load(self, source: Any, **options: Any) -> Any:
        """Refuse: there is no data to read back."""
        raise ValueError(f"{self.key} was read back from a store: it cannot load data")

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return none."""
        return ()

    def run(self, entrant: Entrant, data: Any, seed: int, progress: Any = None) -> Outcome:
        """Refuse: only runs that have been made can be shown."""
        raise ValueError(f"{self.key} was read back from a store: it cannot run anything")

    def figures(self, data: Any, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the figures that the problem itself draws of these runs, where it is one of anytask's."""
        from anytask import problems

        return problems.get(self.key).figures(data, runs) if self.key in problems.KEYS else []


def _loose(identity: str, runs: list[Run]) -> tuple[Record, dict[str, Run]]:
    # One name may stand for several settings of a class: the later ones are numbered.
    names: dict[tuple[str, str, str], str] = {}
    for run in runs:
        who = (run.entrant_name, run.entry, json.dumps(run.params, sort_keys=True))
        if who not in names:
            taken = set(names.values())
            number = next(i for i in range(1, len(names) + 2) if _numbered(run.entrant_name, i) not in taken)
            names[who] = _numbered(run.entrant_name, number)
    entrants: dict[str, dict[str, Any]] = {}
    keys: dict[tuple[int, str], str] = {}
    for run in runs:
        name = names[run.entrant_name, run.entry, json.dumps(run.params, sort_keys=True)]
        fields = entrant_fields(Entrant.of(name, run.entry, run.params, run.role, run.system))  # type: ignore[arg-type]
        entrants.setdefault(name, fields)
        keys[run.seed, name] = run.key
    seeds = sorted({run.seed for run in runs})
    first = runs[0]
    body = {
        **_known_problem(first.problem, runs),
        "facts": {},
        "entrants": list(entrants.values()),
        "seeds": seeds,
        "keys": [keys.get((seed, name), "") for seed in seeds for name in entrants],
        "options": first.settings,
        "left_out": [],
        "command": "",
    }
    digest = hashlib.sha256(identity.encode()).hexdigest()
    times = sorted(run.finished for run in runs)
    record = Record(
        id=digest[:16],
        plan=digest,
        problem=first.problem,
        fingerprint=first.data_fingerprint,
        data_name=first.data_name,
        body=body,
        state="done",
        started=times[0],
        seen=times[-1],
    )
    return record, {run.key: run for run in runs}


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"


def _known_problem(key: str, runs: Sequence[Run]) -> dict[str, Any]:
    from anytask import problems

    if key in problems.KEYS:
        known = problems.get(key)
        metrics = [asdict(metric) for metric in known.metrics]
        return {"title": known.title, "metrics": metrics, "bounds": known.bounds, "privileges": known.privileges}
    measured = dict.fromkeys(name for run in runs for name in run.metrics) or {"metric": None}
    return {"title": key, "metrics": [asdict(Metric(name, name.replace("_", " "))) for name in measured], "bounds": {}}
