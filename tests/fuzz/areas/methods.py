"""Every public method and function with good, spoiled and odd arguments; what is refused leaves no trace."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fingerprints import fingerprint
from torch.optim.optimizer import register_optimizer_step_post_hook

from fuzz import world
from fuzz.calls import Call, Interrupted, Wrong
from fuzz.values import ODD, numbers_in, same, shown, spoiled

SHARE = 32

#: Methods that ask: the object is the same afterwards, whatever they answer.
QUESTIONS = ("predict", "predict_proba", "score", "cost", "save", "transform", "retrieve", "score_samples", "embed")
#: Methods that learn, and leave what they learn from as it was when they are interrupted.
TRAINING = ("fit", "partial_fit")
#: Methods that answer row by row.
BY_ROW = ("predict", "predict_proba", "decision_function", "score_samples", "transform")
#: Classes and functions that other areas call, or that start processes and servers.
ELSEWHERE = ("bench.compare", "bench.execute", "lm.Endpoint", "lm.load_lm")


def run(call: Call) -> None:
    # A class first and its method then, so that classes with many methods are not called more often.
    target = call.pick([name for name in world.published() if name not in ELSEWHERE])
    one = world.reach(target) if isinstance(world.published()[target], type) else None
    if one is not None and one.methods():
        wanted = os.environ.get("FUZZ_TARGET", "").split(".")[2:]
        target = f"{target}.{call.pick(wanted or one.methods())}"
    else:
        one = None
    obj = one.ready() if one else None
    short = target.split(".")[-1]
    function = getattr(obj, short) if obj is not None else world.published()[target]
    call.what = target
    midway = obj is not None and short in TRAINING and call.chance(0.2)
    after = int(call.rng.integers(3))
    given = _arguments(call, one, function, odd=not midway)
    if midway and "progress" in world.parameters(function):
        given["progress"] = _interrupting(after)
    call.doing(f"{target}({', '.join(f'{key}={shown(value)}' for key, value in given.items())})")
    with (
        call.unchanged(obj) if one else contextlib.nullcontext(),
        _interrupted(after) if midway else contextlib.nullcontext(),
    ):
        answer = _used(function(**given))
    if one or not any(not np.isfinite(values).all() for _, values in numbers_in(given)):
        _finite(answer)  # functions may show what is NaN as NaN
    lengths = [len(given[name]) for name in ("X", "y") if hasattr(given.get(name), "__len__")]
    if len(set(lengths)) > 1:
        raise Wrong(f"{lengths[0]} rows with {lengths[1]} labels were taken")
    if short in QUESTIONS:  # who trains when first asked has trained now
        with call.unchanged(obj, also_after_success=True):
            again = function(**given)
        if not same(again, answer) and fingerprint(again) != fingerprint(answer):
            raise Wrong("asked twice, it gave two answers")
    if short in BY_ROW:
        _permuted(call, obj, short, given, answer)


def _arguments(call: Call, one: Any, function: Any, odd: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    known = world.parameters(function)
    odd_one = call.pick(known) if known and odd else None
    for name, parameter in known.items():
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            continue
        optional = parameter.default is not parameter.empty
        if name == odd_one:
            value = _value(call, one, name, parameter, odd=True)
        elif optional and call.chance(0.7) and not (one and name in one.given):
            continue
        else:
            value = _value(call, one, name, parameter, odd=odd and call.chance(0.1))
        given[name] = value
    return given


def _value(call: Call, one: Any, name: str, parameter: inspect.Parameter, odd: bool) -> Any:
    if name in world.PATHS and not odd:
        return call.folder / name
    makers = world.good(one, name)
    if not makers and parameter.default not in (parameter.empty, None):
        makers = [lambda: parameter.default]
    if not makers or (odd and call.chance(0.4)):
        value = call.draw(ODD)
        if name in world.PATHS and isinstance(value, str) and value:
            return call.folder / value.replace("/", "_") if "\x00" not in value else value
        return value
    value = makers[0]() if call.chance(0.7) else call.pick(makers)()
    return spoiled(call, value) if odd else value


def _interrupting(after: int) -> Any:
    """Return a callable that raises after so many calls: whoever calls it has to put back what was begun."""
    left = [after]

    def progress(share: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted(f"the user's own error at {share}")

    return progress


@contextlib.contextmanager
def _interrupted(after: int) -> Iterator[None]:
    """Raise after so many steps of any optimizer, as Ctrl-C or a lack of memory would."""
    step = _interrupting(after)
    handle = register_optimizer_step_post_hook(lambda *args: step(0.0))
    try:
        yield
    finally:
        handle.remove()


def _used(answer: Any) -> Any:
    if inspect.isgenerator(answer):
        return list(answer)
    return answer


def _finite(answer: Any) -> None:
    for place, values in numbers_in(answer):
        if not np.isfinite(values).all():
            raise Wrong(f"{place} holds {values[~np.isfinite(values)].flat[0]}")


def _permuted(call: Call, obj: Any, short: str, given: dict[str, Any], answer: Any) -> None:
    X = given.get("X")
    if not isinstance(X, (np.ndarray, torch.Tensor)) or len(X) != len(answer) or len(X) < 2:
        return
    order = call.rng.permutation(len(X))
    again = getattr(obj, short)(**{**given, "X": X[order]})
    expected = np.asarray(answer)[order]
    close = np.array_equal if expected.dtype.kind in "OU" else functools.partial(np.allclose, atol=1e-4)
    # Labels whose probabilities are equal may be answered either way in another order: most of the rows decide.
    wrong = 0 if close(np.asarray(again), expected) else (np.asarray(again) != expected).mean()
    if wrong > (0.1 if short == "predict" else 0):
        raise Wrong(f"permuted rows give other answers ({wrong:.0%})")
    if not same(type(again), type(answer)):
        raise Wrong("permuted rows give answers of another kind")
