"""Comparisons of every kind of problem on tiny data, with odd options."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from anytask import bench, problems
from fuzz import world
from fuzz.calls import Call, Wrong
from fuzz.values import ODD, same, shown, spoiled

SHARE = 6
INSIDE = ("IndexError", "KeyError", "AttributeError", "AssertionError", "UnboundLocalError", "ZeroDivisionError")


@functools.cache
def small() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return a source (or what makes one in a folder) and options that make each problem fast."""
    import test_saving_contract as saving  # which has to cover every problem

    stated = {key: (source, options) for key, (source, options, _) in saving.CASES.items()}
    return {**saving.NOTHING_TO_SAVE, **stated}


def run(call: Call) -> None:
    key = call.pick(problems.KEYS)
    problem, (source, options) = problems.get(key), small()[key]
    data = source(call.folder) if callable(source) else source
    chosen = dict(options)
    for name in call.rng.choice(list(problem.options), size=int(call.rng.integers(0, 3)), replace=False):
        default = chosen.get(name, problem.options[name][0])
        chosen[str(name)] = spoiled(call, default) if call.chance(0.6) else call.draw(ODD)
        if isinstance(chosen[str(name)], int) and chosen[str(name)] in (10**6, 10**9):  # who asks for so much waits
            chosen[str(name)] = 7
    if call.chance(0.05):
        chosen["no_such"] = 1
    if call.chance(0.15):
        data = spoiled(call, data) if call.chance(0.5) else call.draw(ODD)
    given: dict[str, Any] = {
        "seeds": 1, "jobs": 1, "backend": "sequential", "store": call.folder / "runs.sqlite", "budget_seconds": 5.0,
    }  # fmt: skip
    if call.chance(0.3):
        odd = call.pick(["seeds", "store", "backend", "jobs", "budget_seconds", "report", "save_best"])
        given[odd] = call.draw(ODD)
    if isinstance(given["jobs"], int) and given["jobs"] > 2:
        given["jobs"] = 2
    if given["backend"] != "sequential" and given["backend"] in ("loky", "ray", "dask"):
        given["backend"] = "sequential"
    if isinstance(given["seeds"], int) and given["seeds"] > 3:
        given["seeds"] = 2
    for name in ("store", "report", "save_best"):
        if isinstance(given.get(name), str) and given[name] and "\x00" not in given[name]:
            given[name] = call.folder / given[name].replace("/", "_")
    systems: Any = [call.pick(_entrants(key))]
    if call.chance(0.15):
        systems = call.draw(ODD)
    told = {**{k: v for k, v in given.items() if k not in ("store",) or not hasattr(v, "parent")}, **chosen}
    words = ", ".join(f"{k}={shown(v, 40)}" for k, v in told.items())
    call.doing(f"compare({key!r}, {shown(data)}, {shown(systems)}, {words})")
    found = bench.compare(problem, data, systems, baselines=False, **given, **chosen)
    _sound(found)
    if call.chance(0.3) and given["store"] is not None:
        again = bench.compare(problem, data, systems, baselines=False, **given, **chosen)
        timed = ("seconds", "memory")
        keep = [c for c in found.table().columns if not any(word in c for word in timed)]
        if not found.not_run and not same(again.table()[keep], found.table()[keep]):
            raise Wrong("runs out of the store give another table")


@functools.cache
def _entrants(key: str) -> list[str]:
    from anytask import catalogue

    available = [c.key for c in catalogue.search(problem=key) if catalogue.state(c) == "available"]
    return available or ["all"]


def _sound(found: Any) -> None:
    for run in found.failed:
        said = str(run.error.get("message", "")) if isinstance(run.error, dict) else str(run.error)
        kind = run.error.get("type", "") if isinstance(run.error, dict) else ""
        if kind in INSIDE:
            raise Failed(f"a run failed with {kind}: {said[:200]}")
    for run in found.runs:
        for name, value in (run.metrics or {}).items():
            if run.status == "done" and np.isinf(value):  # NaN is what was not measured
                raise Wrong(f"{name} is {value}")
    found.table()
    found.to_json()
    world.parameters(found.report)


class Failed(Wrong):
    """A run ended in an error from inside."""

    kind = "unclear"
