"""Note a comparison in the store while it runs, so that whoever looks at the store can follow and stop it."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from anytask.bench.results import Results
from anytask.bench.store import Record, RunStore, jsonable
from anytask.core.errors import StoreError
from anytask.problems.base import Entrant

logger = logging.getLogger(__name__)

#: Seconds between two signs of life.
BEAT_SECONDS = 5.0


class Registration:
    """Note in the store that a comparison goes on, give signs of life, and say how it ended.

    Parameters
    ----------
    store : RunStore
        Where its runs are kept.
    comparison : Results
        The comparison, before any of its runs.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from anytask.bench.planning import Plan
    >>> from anytask.problems.base import Metric
    >>> toy = SimpleNamespace(key="toy", title="Toy", metrics=(Metric("accuracy", "accuracy"),), bounds={})
    >>> toy.privileges, toy.setting = {}, lambda data: ""
    >>> data = SimpleNamespace(name="d", fingerprint="f", describe=dict)
    >>> store = RunStore(":memory:")
    >>> with Registration(store, Results(toy, data, Plan((), (), (0,), {}), [])) as registration:
    ...     state = store.comparisons()[0].state
    >>> state, store.comparisons()[0].state
    ('running', 'done')
    """

    def __init__(self, store: RunStore, comparison: Results) -> None:
        self.store = store
        self.record = record_of(comparison)
        self.stopped = False
        self._beat = 0.0

    def __enter__(self) -> Self:
        self.store.begin(self.record)
        self._beat = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        state = "interrupted" if kind is not None else "stopped" if self.stopped else "done"
        try:
            self.store.end(self.record.id, state)  # type: ignore[arg-type]
        except StoreError as error:  # the outcome is worth more than the note about it
            if kind is None:
                logger.warning("the store could not be told that the comparison has ended: %s", error)

    def should_stop(self) -> bool:
        """Whether somebody asked the comparison to stop; gives a sign of life in passing."""
        try:
            if time.monotonic() - self._beat > BEAT_SECONDS:
                self._beat = time.monotonic()
                self.store.beat(self.record.id)
            return self.store.stop_requested(self.record.id)
        except StoreError as error:  # locked for a minute, say: the runs go on all the same
            logger.info("the store could not be asked whether to stop: %s", error)
            return False


def record_of(comparison: Results) -> Record:
    """Return what the store has to know of a comparison so that :func:`stored_comparison` can show it."""
    problem, data, plan = comparison.problem, comparison.data, comparison.plan
    identity = [problem.key, [[item.entrant.name, item.entrant.role, item.key] for item in plan.items]]
    body = {
        "title": problem.title,
        "metrics": [asdict(metric) for metric in problem.metrics],
        "bounds": dict(problem.bounds),
        "privileges": dict(problem.privileges),
        "setting": problem.setting(data),
        "facts": _plain(data.describe()),
        "entrants": [entrant_fields(entrant) for entrant in plan.entrants],
        "seeds": list(plan.seeds),
        "keys": [item.key for item in plan.items],
        "options": dict(plan.options),
        "left_out": [list(left) for left in plan.left_out],
        "command": comparison.command,
    }
    return Record(
        id=secrets.token_hex(8),
        plan=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        problem=problem.key,
        fingerprint=data.fingerprint,
        data_name=data.name,
        body=jsonable(body),
    )


def entrant_fields(entrant: Entrant) -> dict[str, Any]:
    return {
        "name": entrant.name,
        "entry": entrant.entry,
        "params": entrant.settings,
        "role": entrant.role,
        "key": entrant.key,
    }


def _plain(value: Any) -> Any:
    """Facts as JSON; what JSON cannot hold is named in words."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    try:
        return jsonable(value)
    except TypeError:
        return f"<{type(value).__name__}>"
