"""Classes that are far apart are learned, in whatever clothes they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fuzz import world
from fuzz.calls import Call, Wrong
from fuzz.values import CLOTHES, same

SHARE = 8
#: What a learner gets to learn in a moment.
ENOUGH = {"steps": 60, "epochs": 100, "batch_size": 16}


def _learners() -> list[str]:
    """Return the classes that learn labels of rows of numbers."""
    found = []
    for name in world.published():
        one = world.reach(name) if isinstance(world.published()[name], type) else None
        learns = one and not one.trouble and one.verb in ("fit", "partial_fit") and {"X", "y"} <= set(one.given)
        if learns and isinstance(one.given["X"], np.ndarray) and hasattr(one.cls, "predict"):
            found.append(name)
    return found


#: The same classes under other names.
NAMES = {
    "integers": lambda y: y,
    "strings": lambda y: np.array(["b", "ccc", "a"])[y],
    "large and negative": lambda y: np.array([-5, 10**9, 7])[y],
    "whole floats": lambda y: y.astype(np.float64),
    "small integers": lambda y: y.astype(np.uint8),
    "objects": lambda y: np.array(["x", "y", "z"], dtype=object)[y],
    "list": lambda y: y.tolist(),
    "categories": lambda y: pd.Series(np.array(["p", "r", "q"])[y], index=[3] * len(y)),
}


def run(call: Call) -> None:
    name = call.pick(_learners())
    one = world.reach(name)
    dress, label = call.pick(CLOTHES), call.pick(NAMES)
    seed = int(call.rng.integers(1000))
    as_images = one.given["X"].ndim == 4
    x, y = (world.images if as_images else world.rows)(48, seed=seed)
    order = call.rng.permutation(48)
    x, y = x[order], y[order]
    known = world.parameters(one.cls)
    enough = {key: value for key, value in ENOUGH.items() if key in known}
    call.doing(f"{name}.{one.verb}({dress}, {label}, seed={seed}, {enough})")
    model = call.must("a fast instance", lambda: one.make(**enough, **({"seed": seed} if "seed" in known else {})))
    rest = {key: value for key, value in one.given.items() if key not in ("X", "y")}
    X, labels = CLOTHES[dress](x), NAMES[label](y)
    if dress in ("list", "objects") and as_images and call.chance(0.5):
        X = x
    call.must(f"{dress} with {label}", lambda: model.fit(X, labels, **rest))
    asked = {"task": rest["task"]} if rest.get("task") is not None and getattr(model, "needs", "") == "test" else {}
    # Held-out rows around the same centers: classes are told apart by their position alone.
    rows, truth = (world.images if as_images else world.rows)(30, seed=seed + 1)
    found = np.asarray(call.must("a held-out row", lambda: model.predict(rows, **asked)))
    right = float(np.mean(found == np.asarray(NAMES[label](truth))))
    if right < 0.55:  # chance is a third
        raise Wrong(f"{right:.0%} of rows that are far apart are told apart")
    if hasattr(model, "predict_proba"):
        p = np.asarray(call.must("a held-out row", lambda: model.predict_proba(rows, **asked)))
        if p.shape != (30, 3) or not np.allclose(p.sum(1), 1, atol=1e-4) or (p < 0).any():
            raise Wrong(f"probabilities of shape {p.shape} that sum to {p.sum(1).min()}")
        if (np.asarray(model.classes_)[p.argmax(1)] != found).mean() > 0.1:
            raise Wrong("labels are not the most probable classes")
        dressed = np.asarray(call.must(dress, lambda: model.predict_proba(CLOTHES[dress](rows), **asked)))
        if not np.allclose(dressed, p, atol=1e-6):
            raise Wrong(f"{dress} gives other probabilities, by up to {np.abs(dressed - p).max():.1e}")
    if call.chance(0.5):
        _again(call, one, enough, rest, asked, x, y, rows, seed)


def _again(call: Call, one: Any, enough: Any, rest: Any, asked: Any, x: Any, y: Any, rows: Any, seed: int) -> None:
    """The seed settles everything, and another one something, where the class draws anything."""

    def answers(own: int) -> Any:
        model = one.make(**enough, seed=own).fit(x, y, **rest)
        return np.asarray(getattr(model, "predict_proba", model.predict)(rows, **asked))

    if "seed" in world.parameters(one.cls):
        first = answers(seed)
        if not same(first, answers(seed)):
            raise Wrong("one seed gave two answers")
