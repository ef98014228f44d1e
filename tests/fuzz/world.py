"""What is called, found from the library's own lists, and good values for it by the names of its parameters."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import cases

from anytask import catalogue
from anytask.core import discovery

ENV = "anytask/WaypointReach-v0"
#: Parameters that make whatever has them fast.
SMALL = {
    "batch_size": 8, "epochs": 1, "steps": 4, "rounds": 2, "hidden": (8,), "seed": 3, "device": "cpu", "labels": 6,
    "budget": 20, "population": 4, "offspring": 4, "k": 3, "num_envs": 2, "horizon": 8, "minibatches": 2,
    "cloning": {"hidden": (8,), "steps": 5, "batch_size": 8, "evaluation": "mode"}, "max_episode_steps": 20,
    "candidates": {"initial": "vectors", "n_first": 12, "n_mined": 12},
}  # fmt: skip
#: Methods that make an object ready for the others, the first that it has.
READY = ("fit", "partial_fit", "train", "reset")
#: Verbs whose answers are objects with methods of their own, such as results.
MAKING = ("evaluate", "search", "select", "collect", "record", "make", "demonstrations", "load_tiny")
#: Parameters that have a default, and are given all the same.
ALSO = ("task", "prior", "verbalizers", "labels", "y")
#: Methods of scikit-learn's own, and what a problem asks of a class.
NOT_OURS = ("get_metadata_routing", "get_params", "refuses", "settings_for")
#: Steps of an algorithm or of a simulated world, which run in its inner loop on tensors of its own making.
STEPS = ("f", "expand", "collides", "grasp_and_release", "move", "put", "touched")

FEELINGS = {"good": "fine great lovely happy", "bad": "poor awful sad broken"}


def rows(n: int = 24, n_classes: int = 3, dim: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose classes are far apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centers = 3 * np.eye(n_classes, dim)
    return (centers[y] + 0.2 * rng.normal(size=(n, dim))).astype(np.float32), y


def images(n: int = 24, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 4 x 4 images whose classes are far apart."""
    x, y = rows(n, n_classes, 16, seed)
    return x.reshape(n, 1, 4, 4), y


def texts(n: int = 24) -> tuple[list[str], list[str]]:
    """Return short texts with the labels "good" and "bad"."""
    labels = [list(FEELINGS)[i % 2] for i in range(n)]
    return [f"the day {i} was {FEELINGS[y].split()[i % 4]}" for i, y in enumerate(labels)], labels


@functools.cache
def _lm() -> Any:
    from anytask.lm import load_tiny

    return load_tiny("icl")


@functools.cache
def _scripted() -> Any:
    from anytask.datasets.scripted_prompt import ScriptedPromptLM

    return ScriptedPromptLM(0)


@functools.cache
def _blocks() -> Any:
    from anytask.datasets.retrieval_tasks import Blocks

    return Blocks(n_train=24, n_test=4).draw(0)


def _request() -> Any:
    from anytask.lm import ChatRequest

    return ChatRequest(({"role": "user", "content": "good or bad?"},))


def _feedback() -> Any:
    from anytask.datasets.retrieval_tasks import ScriptedFeedback

    return ScriptedFeedback(0)


def _pool() -> Any:
    from anytask.incontext.pool import Pool

    vectors = np.random.default_rng(0).normal(size=(30, 3))
    return Pool(vectors, annotate=lambda indices: [int(vectors[i, 0] > 0) for i in indices])


@functools.cache
def _episodes() -> Any:
    from anytask.control import demonstrations

    data = demonstrations(ENV, 4, task="A", noise=0.2)
    return replace(data, attributes={**data.attributes, "relevant": np.ones(len(data), bool)})


def _world() -> Any:
    from anytask.control import make

    return make(ENV, 2, seed=0)


def _started() -> Any:
    world = _world()
    world.reset(seed=0)
    return world


def _choice() -> Any:
    from anytask.lm.protocol import Choice

    return Choice({"role": "assistant", "content": "good"})


@functools.cache
def _comparison() -> Any:
    from anytask import bench
    from anytask.problems.base import Entrant

    one = Entrant("mean", "anytask.continual:NearestClassMean")
    small = {"seeds": 1, "jobs": 1, "backend": "sequential", "baselines": False}
    return bench.compare("task-stream", rows(), [one], epochs=1, n_tasks=2, **small)


def _observations() -> Any:
    return _world().reset(seed=0)[0]


def _policy() -> Any:
    from anytask.control import ScriptedReach

    return ScriptedReach(_world())


def _probabilities(x: Any) -> np.ndarray:
    scores = np.exp(np.asarray(x, dtype=np.float64).reshape(len(x), -1)[:, :3])
    return scores / scores.sum(axis=1, keepdims=True)


def _space() -> Any:
    import gymnasium

    return gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def _waypoints() -> Any:
    from anytask.control.envs.reach import WaypointReach

    return WaypointReach


_scratch = tempfile.TemporaryDirectory(prefix="fuzz-world-")
_number = itertools.count()
PATHS = {"checkpoint", "folder", "path", "state_file", "store", "report", "cache"}
#: Name of a parameter -> good values for it; where several are given, the first that a class takes.
VALUES: dict[str, list[Callable[[], Any]]] = {
    "X": [lambda: rows()[0], lambda: images()[0], lambda: texts()[0]],
    "y": [lambda: rows()[1], lambda: texts()[1]],
    "data": [lambda: images(), lambda: _comparison().data],
    "task": [lambda: 0, lambda: "block 0", lambda: None],
    "unlabeled": [lambda: rows(8, seed=1)[0], lambda: images(8, seed=1)[0]],
    "texts": [lambda: texts()[0]],
    "text": [lambda: " ".join(texts()[0])],
    "labels": [lambda: [[word != "the" for word in text.split()] for text in texts(6)[0]], lambda: 6],
    "words": [lambda: [text.split() for text in texts(6)[0]]],
    "query": [lambda: texts()[0][0]],
    "prompts": [lambda: [f"{text}\nLabel:" for text in texts(3)[0]]],
    "demos": [lambda: list(zip(*texts(4)))],
    "options": [lambda: [["good", "bad"]] * 3, lambda: ["good", "bad"]],
    "annotate": [lambda: lambda indices: [texts()[1][i] for i in indices]],
    "queries": [lambda: rows(6, 3, 5)[0], lambda: texts(3)[0]],
    "request": [lambda: _request()],
    "requests": [lambda: [_request()] * 2],
    "ids": [lambda: [1, 2]],
    "max_tokens": [lambda: 4],
    "tokens": [lambda: 3],
    "tag": [lambda: "a"],
    "key": [lambda: "a"],
    "id": [lambda: "a"],
    "experts": [lambda: [0]],
    "vectors": [lambda: rows(24, 3, 5)[0]],
    "lm": [_lm, _scripted, _feedback],
    "chat": [lambda: _lm()],
    "prompt": [lambda: _scripted().prompt],
    "verbalizers": [lambda: (" A", " B")],
    "examples": [lambda: _scripted().examples(8, "search")],
    "validation": [lambda: _scripted().examples(8, "validation"), lambda: 0.5],
    "tasks": [lambda: _blocks()[0]],
    "pool": [_pool],
    "budget": [lambda: 9],
    "env": [lambda: ENV, _world],
    "batched": [_waypoints],
    "episodes": [_episodes, lambda: 2],
    "prior": [lambda: _episodes()],
    "corrections": [lambda: _episodes()],
    "demonstrations": [lambda: _episodes()],
    "collect": [lambda: lambda *args, **kwargs: _episodes()],
    "total_steps": [lambda: 32],
    "obs": [_observations],
    "actions": [lambda: np.zeros((2, 2), np.float32), lambda: np.zeros((2, 10), np.float32)],
    "action": [lambda: np.zeros(2, np.float32)],
    "policy": [_policy],
    "observation_space": [_space],
    "action_space": [_space],
    "max_episode_steps": [lambda: 20],
    "num_envs": [lambda: 2],
    "here": [lambda: ENV],
    "there": [lambda: ENV],
    "rollouts": [lambda: 2],
    "online_episodes": [lambda: 2],
    "episodes_per_round": [lambda: 2],
    "frames": [lambda: [np.zeros((8, 8, 3), np.uint8)] * 4],
    "curves": [lambda: {"a": (np.arange(4), np.ones((2, 4)) * 0.5)}],
    "success": [lambda: np.ones(4, bool)],
    "returns": [lambda: np.ones(4)],
    "lengths": [lambda: np.full(4, 5)],
    "models": [lambda: _probabilities],
    "model": [lambda: _trained_model(), lambda: _probabilities, lambda: 0],
    "group": [lambda: "rotations"],
    "orbits": [lambda: np.random.default_rng(0).uniform(size=(10, 4))],
    "input_shape": [lambda: (1, 4, 4), lambda: (4,)],
    "n_outputs": [lambda: 3],
    "backbone": [lambda: "mlp"],
    "name": [lambda: "rotations", lambda: "icl"],
    "spec": [lambda: "tiny:icl"],
    "n": [lambda: 4],
    "rate": [lambda: 0.5],
    "k": [lambda: 3],
    "rows": [lambda: [0], lambda: None],
    "sample": [lambda: 0],
    "samples": [lambda: [0, 1]],
    "elements": [lambda: [0, 1]],
    "index": [lambda: 0],
    "preset": [lambda: "small"],
    "seed": [lambda: 1],
    "state": [lambda: _started().state(), lambda: "done"],
    "limits": [lambda: {"calls": 9}],
    "spans": [lambda: [(0, 3)]],
    "reply": [lambda: {"text": "good"}],
    "reference": [lambda: "truth"],
    "metric": [lambda: None],
    "messages": [lambda: ({"role": "user", "content": "good or bad?"},)],
    "choices": [lambda: (_choice(),)],
    "logprob": [lambda: -1.0],
    "n_tokens": [lambda: 1],
    "n_bytes": [lambda: 4],
    "place": [lambda: 0],
    "problem": [lambda: _comparison().problem],
    "entrants": [lambda: _comparison().plan.entrants],
    "plan": [lambda: _comparison().plan],
    "comparison": [lambda: _comparison()],
    "items": [lambda: _comparison().plan.items],
    "seeds": [lambda: (0,)],
    "runs": [lambda: list(_comparison().runs)],
    "run": [lambda: _comparison().runs[0]],
    "keys": [lambda: [run.key for run in _comparison().runs]],
    "owner": [lambda: "a"],
    "since": [lambda: "2020-01-01"],
    "resume": [lambda: True],
    "statement": [lambda: "SELECT 1"],
    "base_url": [lambda: "http://127.0.0.1:9/v1"],
    "device": [lambda: "cpu"],
    "progress": [lambda: lambda share: None],
    "input": [lambda: texts()[0][0]],
    "values": [lambda: {"input": "a"}],
    **{name: [lambda: Path(_scratch.name) / str(next(_number))] for name in PATHS},
}


@functools.cache
def _trained_model() -> Any:
    from anytask.robust import SLA

    return SLA.from_preset("small", steps=4, batch_size=8, device="cpu").fit(*images())


def published() -> dict[str, Any]:
    """Return every public class and function that ``FUZZ_TARGET`` leaves: "continual.TAME" -> TAME."""
    return _published(os.environ.get("FUZZ_TARGET", ""))


@functools.cache
def _published(target: str) -> dict[str, Any]:
    places = {
        f"{package}.{name}": f"{module}:{name}"
        for package in (*catalogue.FAMILIES, "lm", "models", "bench")
        for name, module in discovery.published(f"anytask.{package}").items()
    }
    chosen = {
        name: place for name, place in places.items() if name.startswith(".".join(target.split(".")[:2]))
    } or places
    return {
        name: value for name, place in chosen.items() if callable(value := discovery.load(place)) and not _bare(value)
    }


def _bare(value: Any) -> bool:
    """Whether a class only says what others offer, complete or raise, or is a network, which takes what torch takes."""
    bare = (BaseException, torch.nn.Module)
    if not isinstance(value, type):
        return False
    left = any(getattr(getattr(value, name, None), "__isabstractmethod__", False) for name in dir(value))
    return left or issubclass(value, bare) or getattr(value, "_is_protocol", False)


def required(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that have to be given."""
    return {
        name: p
        for name, p in parameters(function).items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or class, without ``self``."""
    try:
        return {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}
    except (TypeError, ValueError):
        return {}


def combinations(names: Any, most: int = 16) -> Iterator[dict[str, Any]]:
    """Give good values for parameters of these names, in every combination of those that there are."""
    known = [name for name in names if name in VALUES]
    for makers in itertools.islice(itertools.product(*(VALUES[name] for name in known)), most):
        yield {name: make() for name, make in zip(known, makers)}


@dataclass
class Subject:
    """A public class whose methods can be called: how it is made, and what made it ready."""

    name: str
    cls: type
    make: Callable[..., Any]
    given: dict[str, Any] = field(default_factory=dict)
    made: Any = None
    verb: str = ""
    trouble: str = ""

    def ready(self) -> Any:
        """Return a copy of the object that is ready for every method."""
        try:
            return copy.deepcopy(self.made)
        except TypeError:  # it holds a lock or a file, and is made anew
            fresh = self.make()
            if self.verb:
                getattr(fresh, self.verb)(**self.given)
            return fresh

    def methods(self) -> list[str]:
        """Return the names of its public methods."""
        found = []
        for name, value in inspect.getmembers(self.cls):
            routing = name.startswith("set_") and name.endswith("_request")
            if not name.startswith("_") and callable(value) and not routing and name not in (*NOT_OURS, *STEPS):
                owner = next((base for base in self.cls.__mro__ if name in vars(base)), self.cls)
                if owner.__module__.startswith("anytask") or name == "set_params":
                    found.append(name)
        return found


@functools.cache
def subject(name: str) -> Subject | None:
    """Return a public class as a subject, made ready; None for what is no class."""
    cls = published().get(name)
    family, _, short = name.partition(".")
    if not isinstance(cls, type):
        return None
    found, case = Subject(name, cls, cls), _cases(family).get(short)
    for make in VALUES.get(short.lower(), []):
        if isinstance(made := make(), cls):  # what others made, which users do not
            found.made, found.make = made, make
            return found
    params = dict(case.params) if case else {}
    names = [*required(cls), *(n for n in ("verbalizers",) if n in parameters(cls))]
    for given in combinations(names):
        while True:
            made = functools.partial(_made, cls, {**given, **params})
            try:
                found.made, found.make, found.trouble = made(), made, ""
            except Exception as error:
                found.trouble = f"not made: {type(error).__name__}: {error}"
                wrong = re.search(r"^(\w+) must be|unexpected keyword argument '(\w+)'", str(error))
                refused = [name for name in SMALL if wrong and name in params and name in wrong.groups()]
                if refused:  # a parameter of that name which means something else
                    params.pop(refused[0])
                    continue
            break
        if not found.trouble and _make_ready(found):
            return found
    return found


def _make_ready(found: Subject) -> bool:
    for verb in READY:
        if not callable(getattr(found.cls, verb, None)):
            continue
        method = getattr(found.cls, verb)
        names = [*required(method), *(n for n in ALSO if n in parameters(method) and n not in required(method))]
        for given in combinations(names):
            try:
                fresh = found.make()
                getattr(fresh, verb)(**given)
            except Exception as error:
                found.trouble = f"{verb}: {type(error).__name__}: {error}"
                if isinstance(error, NotImplementedError):
                    return False
                continue
            if hasattr(fresh, "cost"):  # who trains when first asked has trained now
                fresh.cost()
            found.made, found.verb, found.given, found.trouble = fresh, verb, given, ""
            return True
        return False
    return True


def _made(cls: Any, params: Mapping[str, Any], **own: Any) -> Any:
    given = {**params, **own}
    return cls.from_preset("small", **given) if "small" in getattr(cls, "PRESETS", {}) else cls(**given)


@functools.cache
def _cases(family: str) -> dict[str, Any]:
    return cases(family, lambda cls: True, SMALL)


@functools.cache
def products(family: str) -> dict[type, Callable[[], Any]]:
    """Return what makes what the verbs of a family give, by its class: results, worlds, episodes."""
    found: dict[type, Callable[[], Any]] = {}
    for name, value in published().items():
        if not name.startswith(f"{family}."):
            continue
        verbs = [value] if name.split(".")[1] in MAKING else []
        if (one := subject(name) if isinstance(value, type) else None) and one.made is not None:
            verbs += [getattr(one.made, verb) for verb in MAKING if callable(getattr(one.made, verb, None))]
        for verb in verbs:
            for given in combinations([*required(verb), *(n for n in ALSO[-1:] if n in parameters(verb))], most=4):
                try:
                    made = verb(**given)
                except Exception:
                    continue
                found.setdefault(type(made), functools.partial(verb, **given))
                break
    return found


def reach(name: str) -> Subject | None:
    """Return a subject, made by the verbs of its family where its constructor is not for users."""
    one = subject(name)
    if one is not None and (one.made is None or one.trouble):
        make = products(name.partition(".")[0]).get(one.cls)
        if make is not None:
            one.make, one.made, one.trouble, one.verb = make, make(), "", ""
    base = one is not None and "NotImplementedError" in one.trouble  # whose subclasses do what it does not
    return one if one is not None and one.made is not None and not base else None


def good(one: Subject | None, name: str) -> list[Callable[[], Any]]:
    """Return makers of good values for a parameter: what made the object ready comes first."""
    kept = [lambda: copy.deepcopy(one.given[name])] if one is not None and name in one.given else []
    return kept or VALUES.get(name, [])
